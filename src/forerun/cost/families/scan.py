"""Mixers with a state of fixed size: gated delta net, Kimi attention, Mamba-2, lightning; and the
short convolution before them.

A step (`impl` "decode", or one token where no `impl` is given) reads and writes the state:

    bytes = B N H_k H_v 2 state + activations ;  conv1d: B W (4 + 4 (taps - 1))
    time  = step_s + bytes / (rate * step_stream * cache factor * min(1, fill * blocks/n_SM))

A prefill walks over chunks of C tokens, heads side by side, chunks of a head one after the other:

    serial = ceil(B N / n_SM) * (block_s + ceil(q/C) * chunk_s)
    work   = flop / (peak * compute);  traffic = bytes / (rate * stream), as `ops.ssm` counts them,
             but of the states between chunks only the share `kept`
    time   = prefill_s + (serial**p + work**p + traffic**p)**(1/p)

conv1d is over W channels, one block a channel of a sequence: serial = B W / n_SM * channel_s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.families._overlap import powers
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts
from forerun.ops.ssm import SCAN_CHUNK, STEP_FLOP
from forerun.spec.dtype import WEIGHT_BYTES

OPS = ("conv1d", *STEP_FLOP)
NEEDS = ("batch", "n_heads", "head_dim")
DEFAULTS: dict[str, float | str] = {
    "isl": 1.0,
    "k": 4.0,
    "dtype": "bf16",
    "kv_dtype": "fp32",
    "impl": "",
}
KEYS = ("op",)
COEFS = (
    Coef("stream", 0.6, 0.02, 1.1, "share of the memory rate in a prefill"),
    Coef("compute", 0.2, 0.01, 1.0, "share of the 16-bit matrix peak of a prefill"),
    Coef("kept", 0.3, 0.01, 2.0, "share of chunks' states that pass through memory"),
    Coef("block_s", 6e-6, 1e-8, 1e-3, "one head of one sequence before its first chunk, s"),
    Coef("chunk_s", 3e-6, 1e-8, 1e-3, "one chunk of one head, s"),
    Coef("channel_s", 5e-8, 1e-11, 1e-5, "one channel of one sequence of a convolution, s"),
    Coef("prefill_s", 8e-6, 0.5e-6, 400e-6, "time of an empty prefill, s"),
    Coef("step_s", 4e-6, 0.5e-6, 400e-6, "time of an empty step, s"),
    Coef("sharp", 2.0, 1.0, 10.0, "p: how completely parts of a prefill overlap"),
    Coef("step_stream", 0.8, 0.02, 1.1, "share of the memory rate in a step"),
    Coef("cached", 2.0, 1.0, 12.0, "rate of states in the last-level cache over memory's"),
    Coef("fill", 4.0, 0.05, 50.0, "how soon few heads draw the whole rate in a step"),
)
HELD = 0.8  # share of the last-level cache that states of a repeated call can hold
CHANNELS = 128.0  # of a convolution that one block of a step takes: estimate


@dataclass(frozen=True, eq=False)
class Shape:
    """Shapes of the rows, float64 [N] each."""

    steps: np.ndarray  # bool [N]
    conv: np.ndarray  # bool [N]
    batch: np.ndarray
    new: np.ndarray  # tokens a sequence
    heads: np.ndarray
    keys: np.ndarray  # heads of keys
    k_dim: np.ndarray
    v_dim: np.ndarray
    channels: np.ndarray
    taps: np.ndarray
    chunk: np.ndarray  # tokens a scan takes at once
    per_state: np.ndarray  # flop an element of the state and token
    state_bytes: np.ndarray  # of an element

    @property
    def tokens(self) -> np.ndarray:
        return self.batch * self.new

    @property
    def state(self) -> np.ndarray:
        """Elements of all states."""
        return self.batch * self.heads * self.k_dim * self.v_dim

    @property
    def chunks(self) -> np.ndarray:
        return np.ceil(self.new / self.chunk)

    @property
    def flop(self) -> np.ndarray:
        """As `ops.ssm` counts: a step updates the state; a prefill multiplies inside chunks too."""
        per_head = self.k_dim * self.v_dim
        inside = np.minimum(self.new, self.chunk) * (self.k_dim + self.v_dim)
        prefill = self.tokens * self.heads * (inside + (self.per_state - 1) * per_head)
        scan = np.where(self.steps, self.per_state * self.state, prefill)
        return np.where(self.conv, 2.0 * self.tokens * self.taps * self.channels, scan)

    @property
    def kept_bytes(self) -> np.ndarray:
        """States read and written: once a step, once a chunk."""
        passes = np.where(self.steps, 1.0, 1 + self.new / self.chunk)
        inputs = 4.0 * self.batch * (self.taps - 1) * self.channels
        return np.where(self.conv, inputs, 2.0 * self.state * self.state_bytes * passes)

    @property
    def between_bytes(self) -> np.ndarray:
        """Of these, the states between chunks, which a kernel that walks alone keeps on chip."""
        return 2.0 * self.state * self.state_bytes * self.new / self.chunk

    @property
    def moved_bytes(self) -> np.ndarray:
        """Activations in and out, 16 bits an element."""
        row = 2.0 * (2 * self.keys * self.k_dim + 2 * self.heads * self.v_dim)
        return self.tokens * np.where(self.conv, 4.0 * self.channels, row)


def shape_of(x: Rows) -> Shape:
    """Rows of any op of the family, defaults filled in."""
    op, impl = x.words("op"), x.words("impl")
    new, heads, k_dim = x.get("isl", 1.0), x.get("n_heads"), x.get("head_dim")
    keys = np.where(np.isnan(x.get("n_kv_heads")), heads, x.get("n_kv_heads"))
    v_dim = np.where(np.isnan(x.get("v_head_dim")), k_dim, x.get("v_head_dim"))
    packed = 2 * keys * k_dim + heads * v_dim
    stored = x.words("kv_dtype", "fp32")
    size = {word: WEIGHT_BYTES.get(word, 4.0) for word in set(stored)}
    return Shape(
        steps=(impl == "decode") | ((impl != "prefill") & (new <= 1)), conv=op == "conv1d",
        batch=x.get("batch"), new=new, heads=heads, keys=keys, k_dim=k_dim, v_dim=v_dim,
        channels=np.where(np.isnan(x.get("width")), packed, x.get("width")),
        taps=x.get("k", 4.0), chunk=np.array([float(SCAN_CHUNK.get(o, 64)) for o in op]),
        per_state=np.array([STEP_FLOP.get(o, 0.0) for o in op]),
        state_bytes=np.array([size[word] for word in stored]),
    )  # fmt: skip


def counts(x: Rows) -> Counts:
    a = shape_of(x)
    return Counts(flop=a.flop, activation_bytes=a.moved_bytes, kv_bytes=a.kept_bytes)


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    conv = x.words("op") == "conv1d"
    return {
        # TensorRT-LLM's kernel gives a channel of a sequence a block of its own, others share one
        "channel_s": np.where(s.by("trtllm"), 1e-7, 1e-9),
        "stream": 0.8 * s.gather, "step_stream": s.gather,
        "prefill_s": np.where(conv, 1.5, 4.0) * s.launch_s, "step_s": 1.5 * s.launch_s,
    }  # fmt: skip


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    a = shape_of(x)
    moved = a.moved_bytes + a.kept_bytes
    return np.where(a.steps, _step(a, moved, s, c), _prefill(a, moved, s, c))


def _step(a: Shape, moved: np.ndarray, s: Sheet, c: Coefs) -> np.ndarray:
    gpu = s.is_gpu > 0
    filled = np.where(gpu, np.minimum(1.0, c["fill"] * _blocks(a) / s.n_sm), 1.0)
    held = 1 / (1 + (moved / (np.nan_to_num(s.l2_bytes, nan=1.0) * HELD)) ** 4)
    rate = s.hbm_bytes_per_s * c["step_stream"] * (1 + (c["cached"] - 1) * held) * filled
    return c["step_s"] + moved / rate


def _blocks(a: Shape) -> np.ndarray:
    return a.batch * np.where(a.conv, np.maximum(1.0, a.channels / CHANNELS), a.heads)


def _prefill(a: Shape, moved: np.ndarray, s: Sheet, c: Coefs) -> np.ndarray:
    gpu = s.is_gpu > 0
    waves = np.where(gpu, np.ceil(a.batch * a.heads / s.n_sm), 1.0)
    scan = waves * (c["block_s"] + a.chunks * c["chunk_s"])
    conv = np.where(gpu, a.batch * a.channels / s.n_sm, 1.0) * c["channel_s"]
    compute = a.flop / (s.wide_flop_per_s * c["compute"])
    passed = moved - np.where(a.conv, 0.0, (1 - c["kept"]) * a.between_bytes)
    memory = passed / (s.hbm_bytes_per_s * c["stream"])
    return c["prefill_s"] + powers((np.where(a.conv, conv, scan), compute, memory), c["sharp"])


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far a scan is from its roofline on any device."""
    a = shape_of(x)
    moved = a.moved_bytes + a.kept_bytes
    compute, memory = a.flop / s.wide_flop_per_s, moved / s.hbm_bytes_per_s
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / s.launch_s),
        "blocks_per_sm": np.log2(_blocks(a) / s.n_sm),
        "chunks": np.log2(a.chunks),
        "new": np.log2(a.new),
        "cached": np.log2(moved / np.nan_to_num(s.l2_bytes, nan=1e6)),
        "kind": code(x, ("op",)),
        "steps": a.steps * 1.0,
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves."""
    a = shape_of(x)
    size = np.where(a.conv, a.channels, a.heads * a.v_dim)
    return {
        "batch": np.log2(a.batch), "size": np.log2(size), "tokens": np.log2(a.tokens),
        "bytes": np.log2(a.moved_bytes + a.kept_bytes),
        "last_wave": a.batch * a.heads / s.n_sm % 1.0, "key": code(x, KEYS),
        "state_bytes": a.state_bytes,
    }  # fmt: skip
