"""Matrix products: Y[m, n] = X[m, k] W[k, n], `batch` of them side by side.

    tiles   = ceil(m/tm) * ceil(n/tn) * batch * s            s parts of k (split-K, stream-K)
    waves   = ceil(tiles / n_SM)
    compute = waves * 2 tm tn (k/s) / (peak/n_SM * compute * share of the tile)
    share   = min(1, flop a byte of the tile's operands / FULL_TILE) (`_tiles`)
    memory  = bytes / (rate * stream * l2 factor * min(1, 2 tiles/n_SM))
    busy    = quantise + (compute**p + memory**p)**(1/p), the best tile and split
    time    = launch and busy, joined as in `_starts`
    quantise = m k batch (2 * 2 + bytes of the narrow format) / (rate * stream * l2 factor)

Activations reach a narrow format on the way: they are read for their scale, read again and written.
Tables of engines hold that (on H100, 16384 x 128 x 8192 in fp8 takes 396 us by TensorRT-LLM, and
finding the scale and converting alone 343).

Operands that fit in the last-level cache come faster than memory when a product is repeated, as
benchmarks and small models do.  Devices that are not GPUs have no waves: whole rows of the matrix
unit at the sustained rate, and `step_s` for every OUTPUTS results, which are fetched and written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.families._starts import EAGER_S, LAYER, started, without_graphs
from forerun.cost.families._tiles import share
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts
from forerun.spec.dtype import ACTIVATION, WEIGHT_BYTES

OPS = ("gemm",)
NEEDS = ("m", "n", "k")
DEFAULTS: dict[str, float | str] = {"dtype": "bf16", "batch": 1.0, "impl": ""}
KEYS = ("dtype", "impl")
#: formats whose products engines leave to the vendor's library: on one H100 two engines' differ by
#: 3 % (90 % below 9), those of others by 26 % and more
LIBRARY = ("bf16", "fp16", "fp32", "tf32", "fp64")
STEP_S = 1e-8  # on a GPU: estimate
COEFS = (
    Coef("compute", 0.75, 0.05, 1.1, "share of the peak that whole waves of large tiles reach"),
    Coef("stream", 0.9, 0.1, 1.1, "share of the memory rate that long streams reach"),
    Coef("cached", 1.3, 1.0, 12.0, "rate of operands in the last-level cache over memory's"),
    Coef("launch_s", 2.5e-6, 0.3e-6, 200e-6, "time of a product of nothing, s"),
    Coef("split_s", 2e-6, 0.05e-6, 30e-6, "adding up the parts of a split product, s"),
    Coef("step_s", STEP_S, 1e-10, 1e-5, "start of one tile's loop over k, s"),
    Coef("sharp", 3.0, 1.0, 12.0, "p: how completely arithmetic and traffic overlap"),
)

#: (rows, columns) of the output tiles that kernels choose from
TILES = (
    (256, 128), (128, 256), (128, 128), (64, 256), (128, 64), (64, 128), (64, 64), (32, 128),
    (32, 64), (16, 128), (16, 64), (32, 32),
)  # fmt: skip
SPLITS = (1, 2, 4, 8, 16)
#: results of a tile of a device that is not a GPU; each is fetched and written in the time of DEPTH
#: steps of k: estimate
OUTPUTS, DEPTH = 1024, 32
_TM, _TN, _S = (np.array(c, dtype=float) for c in zip(
    *((tm, tn, s) for (tm, tn), s in product(TILES, SPLITS)), strict=True
))  # fmt: skip
_SHARE = share(_TM, _TN)
#: share of the last-level cache that operands of a repeated product can hold
HELD = 0.7
EAGER = ("torch",)  # of which Python starts each product
QUANTISE_S = 4e-6  # two short kernels: estimate
#: tools that time the product alone, of activations that are narrow before it starts
ALONE = ("infersim",)
GRAPH_S = 10e-6  # quantisation of activations included: estimate
BLOCK = 8192  # rows priced at once, so that [rows, tiles] stays small


@kept
def counts(x: Rows) -> Counts:
    """Flop and bytes; with `impl` "bmm" both operands are activations."""
    m, n, k, batch = (x.get(name) for name in ("m", "n", "k", "batch"))
    weight, act = _bytes(x)
    return Counts(
        flop=2.0 * batch * m * n * k,
        weight_bytes=batch * n * k * weight,
        activation_bytes=batch * (m * k * act + m * n * np.maximum(act, _out(x))),
    )


@kept
def _bytes(x: Rows) -> tuple[np.ndarray, np.ndarray]:
    dtypes = x.words("dtype")
    weight = {d: WEIGHT_BYTES[d] for d in set(dtypes)}
    act = {d: WEIGHT_BYTES[ACTIVATION.get(d, "bf16")] for d in set(dtypes)}
    return np.array([weight[d] for d in dtypes]), np.array([act[d] for d in dtypes])


def _out(x: Rows) -> np.ndarray:
    """Bytes of a result: 2, but 4 of wide formats."""
    wide = {"fp32": 4.0, "tf32": 4.0, "fp64": 8.0}
    return np.array([wide.get(d, 2.0) for d in x.words("dtype")])


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: the efficiencies of the device's architecture."""
    first = np.where(_converts(x, s), QUANTISE_S, 0.0)
    calls = np.where(_by_layer(x, s), LAYER, 1.0)
    return {
        "compute": s.gemm * np.where(s.expands > 0, 0.95, 1.0),
        "stream": s.stream,
        "step_s": np.where(s.is_gpu > 0, STEP_S, 2 * OUTPUTS * DEPTH * s.n_sm / s.flop_per_s),
        "launch_s": np.where(
            _eager(x, s), np.maximum(s.launch_s, calls * EAGER_S), s.launch_s + first
        ),
    }


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    total = counts(x)
    coef = {name: np.broadcast_to(np.asarray(v, dtype=float), (x.n,)) for name, v in c.items()}
    out = np.empty(x.n)
    for part, its_x, its_s in _blocks(x, s):
        its_c = {name: v[part] for name, v in coef.items()}
        out[part] = _seconds(its_x, its_s, its_c, total.hbm_bytes[part])
    return started(coef["launch_s"], out + _quantise_s(x, s, coef), GRAPH_S, s)


def _blocks(x: Rows, s: Sheet) -> Iterator[tuple[slice, Rows, Sheet]]:
    """The rows in parts that are priced one after the other; of many nothing is kept."""
    if x.n <= BLOCK:
        yield slice(None), x, s
        return
    for first in range(0, x.n, BLOCK):
        part = slice(first, first + BLOCK)
        yield part, x.take(part), s.take(part)


def _by_layer(x: Rows, s: Sheet) -> np.ndarray:
    """Rows timed as a layer of the engine that Python walks through, which converts activations in
    a call of its own, bool [N]: AIConfigurator's of vLLM's block-scaled fp8
    (collector/vllm/collect_gemm.py, use_cuda_graph)."""
    return s.by("vllm") & (x.words("dtype") == "fp8_block")


def _eager(x: Rows, s: Sheet) -> np.ndarray:
    """Rows timed call by call, bool [N]."""
    return s.by(*EAGER) | without_graphs(s) | _by_layer(x, s)


@kept
def _converts(x: Rows, s: Sheet) -> np.ndarray:
    """Rows whose activations are scaled and converted first, bool [N]: to a format narrower than
    16 bits, which the device multiplies in."""
    _, act = _bytes(x)
    return (act < 1.5) & (s.expands == 0) & ~s.by(*ALONE)


def _quantise_s(x: Rows, s: Sheet, c: Mapping[str, np.ndarray]) -> np.ndarray:
    """Seconds that scaling and converting activations takes beyond its kernels' starts, [N]."""
    m, k, batch = (x.get(name) for name in ("m", "k", "batch"))
    moved = batch * m * k * (4.0 + _bytes(x)[1])
    rate = s.hbm_bytes_per_s * c["stream"] * (1 + (c["cached"] - 1) * held(s, moved))
    return np.where(_converts(x, s), moved / rate, 0.0)


def _seconds(x: Rows, s: Sheet, c: Mapping[str, np.ndarray], total: np.ndarray) -> np.ndarray:
    p = c["sharp"][:, None]
    rate = s.hbm_bytes_per_s * c["stream"] * (1 + (c["cached"] - 1) * held(s, total))
    waves, tile_flop, peak_share, filled = _tiled(x, s)
    unit = (s.flop_per_s * c["compute"])[:, None] / s.n_sm[:, None]
    compute = waves * (tile_flop / (unit * peak_share) + c["step_s"][:, None])
    memory = (total / rate)[:, None] / filled
    # (a**p + b**p)**(1/p) without overflow
    high, low = np.maximum(compute, memory), np.minimum(compute, memory)
    both = high * (1 + (low / high) ** p) ** (1 / p) + c["split_s"][:, None] * (_S > 1)
    return both.min(axis=1)


def held(s: Sheet, total: np.ndarray) -> np.ndarray:
    """Share of operands found in the last-level cache, 0 to 1, float64 [N]."""
    cache = np.nan_to_num(s.l2_bytes, nan=1.0) * HELD
    return 1 / (1 + (total / cache) ** 3)


@kept
def _tiled(x: Rows, s: Sheet) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(waves of tiles, flop of a tile, share of its unit's rate that it reaches, share of the
    memory rate that so many draw), float64 [N, choices] each."""
    m, n, k, batch = (x.get(name)[:, None] for name in ("m", "n", "k", "batch"))
    gpu, units, rows = s.is_gpu[:, None] > 0, s.n_sm[:, None], s.tile_rows[:, None]
    whole = np.ceil(m / rows) * rows * n * batch / OUTPUTS
    tiles = np.where(gpu, np.ceil(m / _TM) * np.ceil(n / _TN) * batch * _S, whole)
    waves = np.where(gpu, np.ceil(tiles / units), tiles / units)
    tile_flop = np.where(gpu, 2 * _TM * _TN * k / _S, 2 * OUTPUTS * k)
    filled = np.where(gpu, np.minimum(1.0, 2 * tiles / units), 1.0)
    return waves, tile_flop, np.where(gpu, _SHARE, 1.0), filled


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far a product is from its roofline on any device."""
    total, c = counts(x), start(x, s)
    m, n, k, batch = (x.get(name) for name in ("m", "n", "k", "batch"))
    compute, memory = total.flop / s.flop_per_s, total.hbm_bytes / s.hbm_bytes_per_s
    tiles = np.ceil(m / 128) * np.ceil(n / 128) * batch
    small = np.ceil(m / 32) * np.ceil(n / 32) * batch
    weight, _ = _bytes(x)
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / c["launch_s"]),
        "tiles_per_sm": np.log2(tiles / s.n_sm),
        "small_tiles_per_sm": np.log2(small / s.n_sm),
        "last_wave": tiles / s.n_sm / np.ceil(tiles / s.n_sm),
        "depth": np.log2(k),
        "tall": np.log2(m / n),
        "rows": np.log2(np.minimum(m, 4096)),
        "cached": np.log2(total.hbm_bytes / np.nan_to_num(s.l2_bytes, nan=1e6)),
        "edge_m": np.minimum(m, 128) / (np.ceil(m / 128) * 128) * np.ceil(m / 128),
        "edge_n": np.minimum(n, 128) / (np.ceil(n / 128) * 128) * np.ceil(n / 128),
        "even_n": _even(n), "even_k": _even(k), "even_m": _even(m),
        "weight_bytes": weight,
        "expands": s.expands,
        "eager": _eager(x, s).astype(float),
        "batched": np.log2(batch),
    }  # fmt: skip


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats and kernels by number."""
    m, n, k = (x.get(name) for name in ("m", "n", "k"))
    return {
        "log_m": np.log2(m), "log_n": np.log2(n), "log_k": np.log2(k),
        "log_flop": np.log2(m * n * k),
        "waves_128": np.ceil(m / 128) * np.ceil(n / 128) / s.n_sm % 1.0,
        "waves_64": np.ceil(m / 64) * np.ceil(n / 256) / s.n_sm % 1.0,
        "key": code(x, KEYS),
    }  # fmt: skip


def _even(size: np.ndarray) -> np.ndarray:
    """How often a size can be halved, 7 at most: kernels load vectors of 2, 4, 8 elements."""
    whole = size.astype(np.int64)
    return np.log2(np.minimum(whole & -whole, 128)).astype(float)
