"""What is published of the attention kernels that engines run: formats, tiles, limits.

Facts of their code, each with its source; nothing here is fitted, and a kernel of which nothing is
known is taken to be as is usual.  All answers are by row, [N].
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families._starts import ENGINES
from forerun.cost.families._tiles import share
from forerun.cost.sheet import Sheet

#: engines whose attention turns queries and keys as it writes the cache (invokeQKVPreprocessing,
#: cpp/tensorrt_llm/common/attentionOp.cpp)
TURNS = ("trtllm",)
#: query heads of a kv head that TensorRT-LLM's kernels for groups take on these devices
#: (supportConfig of its decoderXQAImplJIT, 2025); with more, each head reads its keys alone
GROUP = 32.0
GROUPED = ("ampere", "ada", "hopper")
#: of those kernels, whose parts of a cache follow from all of it, a window or not: keys a part has,
#: turns of blocks at most, and X for at most sqrt(X n) parts of the n there could be, so that
#: joining them does not take longest (kMinHistoryTokensPerBlock, kTargetWaveFactor and
#: computeMultiBlockCount, cpp/tensorrt_llm/kernels/decoderMaskedMultiheadAttention/decoderXQA*)
XQA_SPLIT, XQA_TURNS, XQA_JOINED = 128.0, 8.0, 8.0
#: parts that fill the chip, of so many keys at least, elsewhere: estimate
SPLIT = 256.0
PAGE = 64.0  # keys that are read and multiplied at least
#: keys that a block of prefill multiplies at once, by the widths of a key and a value together:
#: (up to that width, keys, keys where both are in 8 bits); the last for all that is wider
Tiles = tuple[tuple[float, float, float], ...]
#: TensorRT-LLM on Hopper (kv_loop_step, cpp/kernels/fmha_v2/setup.py); elsewhere 128
TRTLLM: Tiles = ((128.0, 256.0, 256.0), (256.0, 128.0, 256.0), (320.0, 128.0, 128.0),
                 (np.inf, 64.0, 128.0))  # fmt: skip
#: FlashAttention 3, on Hopper (tile_size_fwd_sm90, hopper/tile_size.h)
FLASH_3: Tiles = ((256.0, 128.0, 128.0), (384.0, 96.0, 128.0), (np.inf, 64.0, 128.0))
FLASH_3_IN = ("vllm", "sglang", "infersim")
USUAL = 64.0  # fewest in use, of a kernel that is not known
#: FlashAttention 2's kernel for caches of pages, with blocks of 64 rows
#: (run_mha_fwd_splitkv_dispatch, csrc/flash_attn/src/flash_fwd_launch_template.h)
PAGED_2: Tiles = ((128.0, 256.0, 256.0), (256.0, 128.0, 128.0), (np.inf, 64.0, 64.0))
#: where vLLM runs it, and how many of its blocks, of 80 KB for heads of 128, the shared memory of a
#: multiprocessor holds: 164 KB on A100, 100 KB on the others (CUDA programming guide, technical
#: specifications per compute capability)
FLASH_2_ON = {"ampere": 2.0, "ada": 1.0, "blackwellrtx": 1.0}
#: vLLM on Intel's Xe2 (chunk_policy_head*, csrc/xpu/attn/xe_2/fmha_utils.hpp of vllm-xpu-kernels)
XE_2: Tiles = ((np.inf, 32.0, 32.0),)
#: threads that a core of Xe2 keeps in kernels with large registers (8 vector engines of 4 threads),
#: and those of a block: of prefill up to a width, of decode (SubgroupLayoutQK, the same file)
XE_2_THREADS = 32.0
XE_2_PREFILL, XE_2_DECODE = ((192.0, 8.0), (256.0, 16.0), (np.inf, 32.0)), 4.0


def _flash_3(s: Sheet) -> np.ndarray:
    return s.by(*FLASH_3_IN) & s.on("hopper")


def writes(s: Sheet) -> np.ndarray:
    """Whether a measured call of attention writes new keys and values to the cache, bool.

    vLLM does that in a step of its own from 0.16 on (pull request 25954), and AIConfigurator's
    rows of Intel GPUs hold attention alone (collector/vllm/collect_attn_xpu.py).  Those of H100
    hold both: without the write the same kernel would stream at 0.4 of the rate, and it reaches
    0.9 where there is no cache.
    """
    return s.by(*ENGINES) & ~(s.by("vllm") & s.on("xe2"))


def key_tile(width: np.ndarray, kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """Keys that a block of prefill multiplies at once; it never multiplies fewer.

    width : of a key and a value together.  Wider heads may run a kernel of smaller tiles, in which
    a short prompt is cheaper.
    """
    kinds = (
        (s.by("trtllm") & s.on("hopper"), TRTLLM),
        (s.by("trtllm"), ((np.inf, 128.0, 128.0),)),
        (s.by("vllm") & s.on("xe2"), XE_2),
        (_flash_3(s), FLASH_3),
        (s.by("vllm") & s.on(*FLASH_2_ON), PAGED_2),
    )
    found = np.full(len(width), USUAL)
    for which, tiles in reversed(kinds):
        found = np.where(which, _by_width(tiles, width, kv_bytes), found)
    return found


def query_tile(width: np.ndarray, s: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """(query rows of a block of prefill, 1 where heads that share keys share a block's rows and 0
    where they do not); NaN where the kernel is not known.

    The sources are those of `key_tile`; FlashAttention 3 packs whenever lengths vary, as engines
    call it (should_pack_gqa, hopper/heuristics.h).
    """
    narrow = width <= 128
    kinds = (
        (_flash_3(s), np.where(narrow, 192.0, 128.0), 1.0),
        (s.by("vllm") & s.on(*FLASH_2_ON), 64.0, 0.0),
        (s.by("vllm") & s.on("xe2"), np.where(width <= 192, 128.0, 256.0), 0.0),
        (s.by("trtllm") & s.on("hopper"), 64.0, 0.0),
        (s.by("trtllm") & s.on("ampere", "ada"), np.where(narrow, 128.0, 64.0), 0.0),
    )
    rows, packed = np.full(len(width), np.nan), np.full(len(width), np.nan)
    for which, height, shared in kinds:
        rows, packed = np.where(which, height, rows), np.where(which, shared, packed)
    return rows, packed


def tile_share(width: np.ndarray, kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """Share of the matrix unit's rate that the blocks on a multiprocessor leave it: those of
    FlashAttention 2 for caches of pages have 64 rows, which is half a tile where one runs alone."""
    held = _paged_2_held(s)
    of_rows = share(64.0 * np.maximum(held, 1.0), _by_width(PAGED_2, width, kv_bytes))
    return np.where(held > 0, of_rows, 1.0)


def _paged_2_held(s: Sheet) -> np.ndarray:
    """Blocks of FlashAttention 2 that a multiprocessor holds; 0 where vLLM does not run it."""
    on = [s.by("vllm") & s.on(architecture) for architecture in FLASH_2_ON]
    return np.select(on, list(FLASH_2_ON.values()), 0.0)


def _by_width(tiles: Tiles, width: np.ndarray, kv_bytes: np.ndarray) -> np.ndarray:
    at = np.searchsorted([most for most, _, _ in tiles], width)
    _, wide, narrow = np.array(tiles)[at].T
    return np.where(kv_bytes < 2, narrow, wide)


def prefill_at_once(width: np.ndarray, s: Sheet) -> np.ndarray:
    """Blocks of prefill that a multiprocessor works on, so that one's start hides behind the
    others; 1 where that is not known.  width : of a key and a value together
    """
    at = np.searchsorted([most for most, _ in XE_2_PREFILL], width)
    held = XE_2_THREADS / np.array([threads for _, threads in XE_2_PREFILL])[at]
    return np.where(s.by("vllm") & s.on("xe2"), held, 1.0)


def decode_at_once(shares: np.ndarray, kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """The same of a decode step.  shares : `shares_keys`

    Of TensorRT-LLM's kernels, that for 8-bit caches on Hopper (cpp/kernels/xqa/mha_sm90.cu) and
    that for heads that share none have shared memory and registers for two, that for 16 bits has
    not.
    """
    two = s.by("trtllm") & s.on(*GROUPED) & (~shares | _is_sm90(shares, kv_bytes, s))
    held = np.maximum(np.where(two, 2.0, 1.0), _paged_2_held(s))
    return np.where(s.by("vllm") & s.on("xe2"), XE_2_THREADS / XE_2_DECODE, held)


def _is_sm90(shares: np.ndarray, kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    return shares & (kv_bytes < 2) & s.on("hopper")


def shares_keys(heads: np.ndarray, kv_heads: np.ndarray, s: Sheet) -> np.ndarray:
    """Whether TensorRT-LLM decodes with its kernels for heads that share keys, bool."""
    group = heads / kv_heads
    return s.by("trtllm") & s.on(*GROUPED) & (group > 1) & (group <= GROUP)


def reads_by_head(heads: np.ndarray, kv_heads: np.ndarray, s: Sheet) -> np.ndarray:
    """Where TensorRT-LLM has no kernel for so many heads that share keys, so that each reads them
    alone, bool."""
    return s.by("trtllm") & s.on(*GROUPED) & (heads / kv_heads > GROUP)


def parts(
    blocks: np.ndarray, keys: np.ndarray, history: np.ndarray, shares: np.ndarray,
    kv_bytes: np.ndarray, s: Sheet,
) -> np.ndarray:  # fmt: skip
    """Into how many each cache is split for a decode step of so many requests' kv heads.

    keys, history : that a query reads, and that are cached;  shares : `shares_keys`
    """
    filling = np.clip(2 * s.n_sm / blocks, 1.0, np.maximum(1.0, keys / SPLIT))
    # the newer kernel leaves out what a window does, the older starts blocks for all that is cached
    most = np.where(_is_sm90(shares, kv_bytes, s), keys, history) / XQA_SPLIT
    most = np.maximum(1.0, np.minimum(most, np.sqrt(XQA_JOINED * most)))
    return np.where(shares, np.clip(XQA_TURNS * s.n_sm / blocks, 1.0, most), filling)


def page(heads: np.ndarray, kv_heads: np.ndarray, s: Sheet) -> np.ndarray:
    """Keys that a decode step reads and multiplies at least: those there are, in TensorRT-LLM's
    kernel for heads that share none (masked_multihead_attention_kernel)."""
    return np.where(s.by("trtllm") & s.on(*GROUPED) & (heads == kv_heads), 1.0, PAGE)


def widens(kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """Whether keys and values come from a cache in 8 bits that no matrix unit multiplies, so that
    each tile of query rows converts them anew, bool (vllm-xpu-kernels, csrc/xpu/attn/xe_2/
    collective/chunk_prefill_mainloop.hpp; elsewhere taken to be alike).  vLLM and SGLang read what
    they have just written; TensorRT-LLM attends before new tokens are narrowed."""
    reads = s.by("vllm", "sglang")
    return reads & (kv_bytes < 2) & np.isnan(s.fp8_flop_per_s)


def multiplies_narrow(kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """Whether new tokens are multiplied in 8 bits because the cache has 8, bool: TensorRT-LLM
    (mFP8ContextFMHA with paged context, cpp/tensorrt_llm/thop/attentionOp.cpp)."""
    return s.by("trtllm") & (kv_bytes < 2) & ~np.isnan(s.fp8_flop_per_s)


def narrows_queries(kv_bytes: np.ndarray, s: Sheet) -> np.ndarray:
    """Whether queries are written in 8 bits before they meet a cache of 8, bool."""
    return (kv_bytes < 2) & ~widens(kv_bytes, s)


def unclipped(window: np.ndarray, s: Sheet) -> np.ndarray:
    """Where a window is left behind and everything after it is multiplied, bool: vLLM's kernels for
    Intel GPUs until June 2026 (vllm-xpu-kernels, pull requests 383 and 426)."""
    return s.by("vllm") & s.on("xe2") & (window > 0)


def padded(width: np.ndarray, bytes_each: np.ndarray, s: Sheet) -> np.ndarray:
    """What is multiplied for heads so wide: TensorRT-LLM on Hopper pads them to whole lines of 128
    bytes where they have more than one (cpp/kernels/fmha_v2/setup.py)."""
    line = 128.0 / bytes_each
    lines = np.where(width > line, np.ceil(width / line), width / line)
    return np.where(s.by("trtllm") & s.on("hopper"), line * lines, width)
