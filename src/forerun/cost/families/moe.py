"""The routed experts of one layer on one device: grouped products over the experts chosen.

Of T tokens each chooses topk of E experts; a device holds E / ep of them, a share 1 / tp of each.

    rows    = T topk / ep * ep**busy                        busy > 0: the fullest device is measured
    active  = sum over local experts of 1 - exp(-rows of the expert)     "uniform", "power_law_a"
            = min(E / ep, T topk / ep)                                   "balanced"
    compute = least over tiles of (sum of rows rounded up to tiles) * 2 D F n_mat / (rate of tile)
    memory  = (active * D F n_mat * weight bytes + activations) / (rate * stream)
    busy    = T topk token_s + (compute**p + memory**p)**(1/p)
    time    = launch and busy, joined as in `_starts`

n_mat is 3 for gated experts, else 2; rows of the experts are those of `forerun.ops.moe.loads`.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._codes import code
from forerun.cost.families._overlap import powers
from forerun.cost.families._starts import started
from forerun.cost.families._tiles import share
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops import moe
from forerun.ops.counts import Counts
from forerun.ops.moe import NODES
from forerun.spec.dtype import ACTIVATION, WEIGHT_BYTES

OPS = ("moe",)
STANDS_IN = {"fp8": ("fp8_block",), "fp8_block": ("fp8",), "nvfp4": ("mxfp4",), "mxfp4": ("nvfp4",)}
GRAPH_S = 60e-6  # routing, sorting, two products and the sum: estimate
NEEDS = ("n_tokens", "hidden", "inter", "topk", "n_experts")
DEFAULTS: dict[str, float | str] = {
    "moe_tp": 1.0, "moe_ep": 1.0, "gated": 1.0, "distribution": "uniform", "dtype": "bf16",
    "impl": "",
}  # fmt: skip
KEYS = ("dtype", "impl")
COEFS = (
    Coef("compute", 0.5, 0.02, 1.1, "share of the peak that full tiles reach"),
    Coef("stream", 0.8, 0.05, 1.1, "share of the memory rate on weights of woken experts"),
    Coef("launch_s", 25e-6, 1e-6, 600e-6, "sorting, all kernels' starts, s"),
    Coef("token_s", 2e-10, 1e-13, 1e-7, "picking and adding up, s a token and expert"),
    Coef("busy", 0.03, 0.001, 0.7, "load of the fullest device over the mean: ep**busy"),
    Coef("fill", 4.0, 0.1, 50.0, "how soon few experts draw the whole memory rate"),
    Coef("sharp", 2.0, 1.0, 10.0, "p: how completely arithmetic and traffic overlap"),
)
#: exponent as which choices by chance count where only the learnt residual tells loads apart; no
#: table has them (an estimate, nearer to equal loads than to the least exponent measured)
BY_CHANCE = 0.25
TILES = (16.0, 32.0, 64.0, 128.0)


@kept
def loads(x: Rows) -> np.ndarray:
    """Tokens of the local experts, by rank, before any device is fuller than the mean:
    float64 [N, NODES]."""
    T, E, k = x.get("n_tokens"), x.get("n_experts"), x.get("topk")
    rows, words = np.empty((x.n, NODES)), x.words("distribution")
    for word in set(words):
        i = words == word
        rows[i] = moe.loads(T[i], n_experts=E[i], topk=k[i], distribution=word)
    return rows


def active(x: Rows, rows: np.ndarray) -> np.ndarray:
    """Share of the local experts, by rank, that at least one token chose: float64 [N, NODES]."""
    even = (x.words("distribution") == "balanced")[:, None]
    return np.where(even, np.minimum(1.0, rows), -np.expm1(-rows))


@kept
def _sizes(x: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(local experts, elements of one expert's share, products)."""
    n_mat = np.where(x.get("gated") > 0, 3.0, 2.0)
    each = x.get("hidden") * x.get("inter") / x.get("moe_tp") * n_mat
    return x.get("n_experts") / x.get("moe_ep"), each, n_mat


@kept
def _widths(x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Bytes an element of weights and of activations takes, float64 [N] each."""
    words = x.words("dtype")
    weight = {w: WEIGHT_BYTES[w] for w in set(words)}
    act = {w: WEIGHT_BYTES[ACTIVATION.get(w, "bf16")] for w in set(words)}
    return np.array([weight[w] for w in words]), np.array([act[w] for w in words])


@kept
def _hit(x: Rows) -> np.ndarray:
    """Local experts that at least one token chose, of a device with the mean load, [N]."""
    return _sizes(x)[0] * active(x, loads(x)).mean(axis=1)


@kept
def counts(x: Rows) -> Counts:
    """Of the device with the mean load."""
    _, each, n_mat = _sizes(x)
    weight, act = _widths(x)
    given = x.get("n_active")
    woken = np.where(np.isnan(given), _hit(x), given)
    rows = x.get("n_tokens") * x.get("topk") / x.get("moe_ep")
    F = x.get("inter") / x.get("moe_tp")
    return Counts(
        flop=2.0 * rows * each,
        weight_bytes=woken * each * weight,
        activation_bytes=rows * (x.get("hidden") * (act + 2.0) + n_mat * F * 2.0),
    )


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: grouped products keep less than plain ones."""
    weight, _ = _widths(x)
    return {
        "compute": s.gemm * np.where(weight < 1.5, 0.55, 0.7),
        "stream": 0.9 * s.stream,
        "launch_s": 9.0 * s.launch_s,
    }


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    local, each, _ = _sizes(x)
    total = counts(x)
    fuller = x.get("moe_ep") ** c["busy"]
    rows = np.minimum(loads(x) * fuller[:, None], x.get("n_tokens")[:, None])
    some = active(x, rows)
    woken = local * some.mean(axis=1)
    compute = np.full(x.n, np.inf)
    for tile in TILES:
        # an expert's rows are a random number: its last tile is half full on the average
        padded = local * np.maximum(some * tile, rows + some * tile / 2).mean(axis=1)
        rate = s.flop_per_s * c["compute"] * share(tile, 128.0)
        compute = np.minimum(compute, 2.0 * padded * each / rate)
    weights = total.weight_bytes * woken / np.maximum(_hit(x), 1e-9)
    blocks = woken * np.maximum(1.0, x.get("inter") / x.get("moe_tp") / 128)
    gpu = s.is_gpu > 0
    filled = np.where(gpu, np.minimum(1.0, c["fill"] * blocks / s.n_sm), 1.0)
    stream = s.hbm_bytes_per_s * c["stream"]
    memory = (weights + total.activation_bytes * fuller) / (stream * filled)
    pairs = x.get("n_tokens") * x.get("topk")
    busy = pairs * c["token_s"] + powers((compute, memory), c["sharp"])
    return started(c["launch_s"], busy, GRAPH_S, s)


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: what decides how far experts are from their roofline on any device."""
    total = counts(x)
    local, each, _ = _sizes(x)
    compute, memory = total.flop / s.flop_per_s, total.hbm_bytes / s.hbm_bytes_per_s
    per = x.get("n_tokens") * x.get("topk") / x.get("n_experts")
    weight, _ = _widths(x)
    return {
        "ridge": np.log2(compute / memory),
        "launches": np.log2(np.maximum(compute, memory) / s.launch_s),
        "rows_an_expert": np.log2(per),
        "woken": np.log2(np.maximum(total.weight_bytes / (each * weight), 0.01)),
        "local": np.log2(local),
        "ep": np.log2(x.get("moe_ep")),
        "skewed": np.array([w.startswith("power") for w in x.words("distribution")], dtype=float),
        "width": np.log2(x.get("inter") / x.get("moe_tp")),
        "weight_bytes": weight,
        "expands": s.expands,
        "gated": x.get("gated"),
    }


def _exponent(x: Rows) -> np.ndarray:
    """How uneven the loads of experts are, float64 [N]: the exponent of their power law, 0 where
    all are equal; choices by chance alone are next to that."""
    words = x.words("distribution")
    known = {"balanced": 0.0, "uniform": BY_CHANCE}
    of = {w: known[w] if w in known else float(w.removeprefix("power_law_")) for w in set(words)}
    return np.array([of[word] for word in words])


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, how uneven loads are, and formats and kernels by number."""
    return {
        "tokens": np.log2(x.get("n_tokens")), "hidden": np.log2(x.get("hidden")),
        "inter": np.log2(x.get("inter")), "topk": x.get("topk"),
        "experts": np.log2(x.get("n_experts")), "tp": np.log2(x.get("moe_tp")),
        "key": code(x, KEYS), "uneven": _exponent(x),
    }  # fmt: skip
