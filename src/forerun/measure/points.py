"""Which few shapes tell most: performance representatives.

Candidates fill the logarithms of the sizes evenly.  Of these are taken, one after the other,

    1. those that tell the coefficients of the family's physics most (D-optimal):
       argmax over i of  g_i' (I/10 + sum over taken of g g')**-1 g_i,   g = d log time / d log c
    2. then, of the next NEXT in the even sequence, the one farthest from all that are taken, in
       the logarithms of the sizes and in what says launch-bound, cached, bandwidth-bound or
       compute-bound: even inside, where questions come from, and not crowded at the edges

The order is the same in every run, and any beginning of it is a good choice: a measurement that is
stopped has taken the points that tell most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.cost.chosen import starting
from forerun.cost.families import family, family_of_op
from forerun.cost.rows import NUMBERS, Rows, rows
from forerun.cost.sheet import sheet
from forerun.spec.device import Device

Row = dict[str, Any]
#: candidates drawn for each kind of operator
DRAWN = 1_500
#: points for each coefficient that are chosen for the coefficients
TOLD = 2
#: candidates looked at for each further point
NEXT = 8
#: features of families that say what bounds a row
REGIME = ("ridge", "launches", "cached")
#: a share of a second that one operator may take: longer ones tell nothing new
MOST_S = 0.06
#: bytes it may touch on a processor
MOST_BYTES = 2.0**26
#: by what sizes and bytes may be larger on a GPU
LARGER = 4


@dataclass(frozen=True)
class Kind:
    """One operator in one implementation, and how many points it gets."""

    op: str
    points: int
    impl: str = ""
    causal: int = 0  # of attention: prompts of language models, else encoders


#: what a small machine is asked about, in the share of a whole measurement
KINDS = (
    Kind("gemm", 128), Kind("attention_prefill", 72), Kind("norm", 20), Kind("activation", 16),
    Kind("add", 20), Kind("softmax", 12), Kind("norm", 12, "skip"),
)  # fmt: skip


def points(
    kinds: tuple[Kind, ...], device: Device, *, dtype: str, share: float = 1.0
) -> list[Row]:  # fmt: skip
    """Shapes of all kinds, interleaved, the most telling first.

    device : whose data sheet says what is bound by what; share : of each kind's points.
    """
    found = [
        representatives(kind, device, dtype, max(4, round(share * kind.points))) for kind in kinds
    ]
    # each kind evenly over the whole, so that a stop half way leaves half of each
    place = [((i + 0.5) / len(rows), j, row) for j, rows in enumerate(found)
             for i, row in enumerate(rows)]  # fmt: skip
    return [row for _, _, row in sorted(place, key=lambda p: p[:2])]


def representatives(kind: Kind, device: Device, dtype: str, count: int) -> list[Row]:
    """`count` shapes of one kind, the most telling first."""
    name = family_of_op(kind.op)
    if name is None:
        raise KeyError(kind.op)
    module = family(name)
    size = LARGER if device.kind == "gpu" else 1
    drawn = list(candidates(kind, dtype, size))
    x = as_rows([{**row, "device": device.name} for row in drawn]).filled(module.DEFAULTS)
    s = sheet(x, {device.name: device})
    counts, c = module.counts(x), starting(x, s, module)
    time_s = module.physics(x, s, c)
    small = (time_s < MOST_S) & (counts.hbm_bytes <= MOST_BYTES * size)
    at = np.flatnonzero(small)
    space = {n: v[at] for n, v in module.features(x, s).items() if n in REGIME}
    space |= {n: np.log2(v[at]) for n in NUMBERS if np.ptp(v := x.get(n)) > 0}
    slopes = gradients(lambda k: module.physics(x, s, k), c)[at]
    order = telling(slopes, space, min(count, len(at)))
    return [drawn[at[i]] for i in order]


def gradients(
    physics: Callable[[Mapping[str, np.ndarray]], np.ndarray], c: Mapping[str, np.ndarray]
) -> np.ndarray:
    """d log time / d log of each coefficient, float64 [N, coefficients]."""
    step = 0.05
    first = np.log(physics(c))
    columns = [
        (np.log(physics({**c, name: value * (1 + step)})) - first) / np.log1p(step)
        for name, value in c.items()
    ]
    return np.stack(columns, axis=1)


def telling(slopes: np.ndarray, places: Mapping[str, np.ndarray], count: int) -> list[int]:
    """Indices in the order of what they tell, `count` of them; see the module.

    slopes : float64 [N, coefficients]; places : float64 [N] each, coordinates.
    """
    n = len(slopes)
    space = np.stack([_even(value) for value in places.values()], axis=1)
    taken: list[int] = []
    known = 0.1 * np.eye(slopes.shape[1])
    far = np.full(n, np.inf)

    def take(i: int) -> None:
        taken.append(i)
        np.minimum(far, ((space - space[i]) ** 2).sum(axis=1), out=far)
        far[i] = -1.0

    while len(taken) < min(count, TOLD * slopes.shape[1], n):
        told = np.einsum("ij,jk,ik->i", slopes, np.linalg.inv(known), slopes)
        told[taken] = -1.0
        i = int(np.argmax(told))
        known += np.outer(slopes[i], slopes[i])
        take(i)
    while len(taken) < min(count, n):
        following = np.flatnonzero(far >= 0)[:NEXT]
        take(int(following[np.argmax(far[following])]))
    return taken


def _even(values: np.ndarray) -> np.ndarray:
    """Values between 0 and 1; a feature that does not vary counts nothing."""
    width = np.ptp(values)
    return (values - values.min()) / width if width > 0 else np.zeros(len(values))


def as_rows(given: list[Row]) -> Rows:
    """Rows from mappings of columns; a column that some lack is not given there."""
    names = {name for row in given for name in row}
    columns: dict[str, Any] = {
        name: [row.get(name, np.nan if name in NUMBERS else "") for row in given] for name in names
    }
    return rows(**columns)


# ------------------------------------------------------------------------------ candidates


def candidates(kind: Kind, dtype: str, size: int = 1) -> Iterator[Row]:
    """Shapes spread evenly over the logarithms of the sizes (a Halton sequence)."""
    base: Row = {"op": kind.op, "dtype": dtype, **({"impl": kind.impl} if kind.impl else {})}
    seen = set()
    for i in range(1, DRAWN + 1):
        row = {**base, **_sizes(kind, dtype, i, size)}
        key = tuple(sorted(row.items()))
        if key not in seen:
            seen.add(key)
            yield row


def _sizes(kind: Kind, dtype: str, i: int, size: int) -> Row:
    op = kind.op
    u = [halton(i, prime) for prime in (2, 3, 5, 7)]
    if op == "gemm":
        return {
            "m": _between(u[0], 1, 4096 * size), "n": _between(u[1], 48, 6144 * size, 16),
            "k": _between(u[2], 48, 6144 * size, 16),
        }  # fmt: skip
    if op == "attention_prefill":
        heads = _between(u[2], 1, 24)
        return {
            "batch": _between(u[0], 1, 48), "isl": _between(u[1], 6, 1536 * size), "n_heads": heads,
            "n_kv_heads": heads, "head_dim": (32, 48, 64, 80, 96, 128)[int(6 * u[3])],
            "causal": kind.causal, "kv_dtype": dtype,
        }  # fmt: skip
    return {"n_tokens": _between(u[0], 4, 12_000 * size), "width": _between(u[1], 40, 8192, 8)}


def _between(u: float, low: float, high: float, step: int = 1) -> int:
    """A size between two, even in the logarithm, in whole steps."""
    return max(step, round(low * (high / low) ** u / step) * step)


def halton(i: int, base: int) -> float:
    """The i-th number of the van der Corput sequence of a base, 0 to 1."""
    out, share = 0.0, 1.0
    while i:
        share /= base
        i, digit = divmod(i, base)
        out += share * digit
    return out
