"""What an engine sets aside on a device before it sizes the KV cache, as vLLM accounts for it.

    cache = utilization * visible - weights - activation peak - outside PyTorch - graphs

Numbers are read from vLLM's own start-up lines, tests/unit/test_memory_rows.py has them with their
sources.  For other engines the same is taken, an estimate.
"""

from __future__ import annotations

from forerun.cost.sheet import split_runtime
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.embedding import Embedding
from forerun.ops.graph import Graph, Op
from forerun.ops.moe import Experts
from forerun.ops.sampling import Sampling
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.dtype import WEIGHT_BYTES

GiB = 2.0**30
#: what the driver keeps: total of nvidia-smi less total_memory of CUDA is 0.26 GiB (V100 32 GB) to
#: 0.8 GiB (A100 80 GB), 0.46 on H100, middle of eight boards
DRIVER_BYTES = 0.45 * GiB
#: bytes of a logit while vLLM profiles the sampler, its own 2 included: fp32 copy, sorted values,
#: probabilities; before 0.17 also 64-bit indices and copies of each (38 from Qwen3-14B at both)
LOGIT_BYTES, OLD_LOGIT_BYTES = 12.0, 36.0
#: outside PyTorch after a profiling run: libraries and kernels of one device, and communication
#: buffers where devices share memory over NVLink (NCCL, custom all-reduce, symmetric memory) or not
ALONE_BYTES, OLD_ALONE_BYTES = 0.25 * GiB, 0.10 * GiB
NVLINK_BYTES, PCIE_BYTES = 2.1 * GiB, 0.25 * GiB
#: a captured graph: vLLM logs 0.51 to 1.85 GiB (mean 1.04) for the 102 of a server on H100, 0.73
#: for 86, 0.09 for 5; counted within the budget since 0.21
GRAPH_BYTES = 10.5 * 2**20
MOST_CAPTURED = 512  # sequences
#: versions of vLLM from which the accounting differs
SLIM_SAMPLER, MORE_LIBRARIES, GRAPHS_COUNTED = (0, 17), (0, 18), (0, 21)


def visible_bytes(device: Device) -> float:
    """Memory that programs can have: what the board has less what its driver keeps."""
    return device.hbm_bytes - (DRIVER_BYTES if device.kind == "gpu" else 0.0)


def activation_bytes(graph: Graph, pool: Pool) -> float:
    """Peak of activations on a device in a step of max_num_batched_tokens.

        max(inputs and outputs of the hungriest operator,
            S V (2 + LOGIT_BYTES) + workspace of the experts) + hidden state and residual

    S = max_num_seqs sequences are sampled at once from gathered logits, whatever tp is.
    """
    act = WEIGHT_BYTES[graph.math]
    T, S = pool.engine.max_num_batched_tokens, -(-pool.engine.max_num_seqs // pool.dp)
    logit = act + (LOGIT_BYTES if _since(pool, SLIM_SAMPLER) else OLD_LOGIT_BYTES)
    stay = 2 * -(-T // (pool.dp * pool.cp)) * graph.hidden * act
    working = max((_workspace(op, T, act) for op in graph.ops), default=0.0)
    sampled = S * graph.vocab * logit + working
    return max(*(_held(op, T) for op in graph.ops), working, sampled) + stay


def _held(op: Op, n_tokens: int) -> float:
    """Inputs and outputs of one operator."""
    if op.axis != "tokens" or isinstance(
        op.shape, Attention | Collective | Embedding | Experts | Sampling | Scan
    ):
        return 0.0
    return float(op.shape.counts(-(-n_tokens // op.split)).activation_bytes)


def _workspace(op: Op, n_tokens: int, act: float) -> float:
    """Rows of all chosen experts between the two grouped products, which vLLM never frees:
    T topk (2 F + F + D), F + F where nothing gates."""
    if not isinstance(op.shape, Experts):
        return 0.0
    e = op.shape
    width = (3 if e.gated else 2) * e.inter + e.hidden
    return -(-n_tokens // op.split) * e.topk * width * act


def padding_bytes(op: Op) -> float:
    """Zeros beside the weights of one instance on one device.

    vLLM widens MXFP4 experts to whole tiles, D to a multiple of 256 and F to one of 128: 2880 to
    3072 and 2944 in gpt-oss, whose 20b then takes 13.7 GiB and not 12.8.
    """
    e = op.shape
    if not isinstance(e, Experts) or e.dtype != "mxfp4":
        return 0.0
    wider = -(-e.hidden // 256) * 256 / e.hidden * (-(-e.inter // 128) * 128 / e.inter)
    return e.stored_bytes * (wider - 1)


def reserve_bytes(device: Device, pool: Pool) -> float:
    """Libraries, communication buffers and captured graphs of one device."""
    if device.kind not in ("gpu", "npu", "tpu"):
        return 0.0
    reserve = ALONE_BYTES if _since(pool, MORE_LIBRARIES) else OLD_ALONE_BYTES
    if pool.tp * pool.dp * pool.cp > 1:
        shared = device.topology in ("switch", "mesh")
        reserve = NVLINK_BYTES if shared else max(reserve, PCIE_BYTES)
    if device.kind == "gpu":
        spare = visible_bytes(device) * (1 - pool.engine.gpu_memory_utilization)
        graphs = GRAPH_BYTES * n_graphs(-(-pool.engine.max_num_seqs // pool.dp))
        # they fit into what utilization leaves free, or count
        reserve += graphs if _since(pool, GRAPHS_COUNTED) else max(0.0, graphs - spare)
    return reserve


def n_graphs(max_num_seqs: int) -> int:
    """Graphs that vLLM captures: whole steps of up to max_num_seqs sequences, and steps in pieces
    around attention of up to twice as many; 512 at most, at 1, 2, 4, each 8th and from 256 each
    16th size.  86 for 256 sequences, as its log says."""

    def sizes(most: int) -> int:
        return (
            sum(1 for n in (1, 2, 4) if n <= most) + min(most, 256) // 8 + max(0, most - 256) // 16
        )

    return sizes(min(max_num_seqs, MOST_CAPTURED)) + sizes(min(2 * max_num_seqs, MOST_CAPTURED))


def _since(pool: Pool, version: tuple[int, int]) -> bool:
    """Whether the pool's engine is vLLM of that version or newer; unknown versions are new."""
    engine, stated = split_runtime(pool.engine.runtime)
    if engine != "vllm" or not stated:
        return True
    parts = stated.split(".")
    try:
        return (int(parts[0]), int(parts[1])) >= version
    except (IndexError, ValueError):
        return True
