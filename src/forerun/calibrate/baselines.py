"""What an error is to be compared with: two predictions that need no model of ours.

roofline   max(flop / peak, bytes / memory rate) of the data sheet, no efficiencies; of collectives
           the bytes on the wire over the link's rate
nearest    the measured row nearest in shape, times the ratio of rooflines: of the same device where
           it was measured, else of the device with the nearest data sheet
"""

from __future__ import annotations

import numpy as np

from forerun.calibrate.data import Data
from forerun.cost.families import collective
from forerun.cost.rows import NUMBERS, Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

#: a step to another text (format, kernel, distribution) is as far as a size of 2**FAR times
FAR = 4.0


def roofline_s(x: Rows, s: Sheet, counts: Counts) -> np.ndarray:
    """Seconds of each row by its data sheet alone, float64 [N]."""
    if x.n and x.words("op")[0] in collective.OPS:
        return collective.wire(x) / collective.link(x, s)[0]
    return np.maximum(counts.flop / s.flop_per_s, counts.hbm_bytes / s.hbm_bytes_per_s)


def nearest_scaled_s(known: Data, asked: Data) -> np.ndarray:
    """Seconds of rows of one device by the nearest row of those known, float64 [N]; NaN where no
    row is known."""
    from scipy.spatial import cKDTree

    if not known.x.n:
        return np.full(asked.x.n, np.nan)
    known = known.take(_of_nearest_device(known.s, asked.s))
    words = ("op", *known.module.KEYS, "distribution")
    places = _places(known.x, asked.x, words)
    _, at = cKDTree(places[0]).query(places[1])
    found = known.take(at)
    here = roofline_s(asked.x, asked.s, asked.module.counts(asked.x))
    there = roofline_s(found.x, found.s, found.module.counts(found.x))
    return found.time_s * here / there


def _of_nearest_device(known: Sheet, asked: Sheet) -> np.ndarray:
    """Rows of the known device whose peak and memory rate are nearest, int [N]."""
    mine = np.log([asked.flop_per_s[0], asked.hbm_bytes_per_s[0]])
    theirs = np.log(np.stack([known.flop_per_s, known.hbm_bytes_per_s], axis=1))
    apart = np.abs(theirs - mine).sum(axis=1)
    best = known.device[int(np.argmin(apart))]
    return np.flatnonzero(known.device == best)


def _places(known: Rows, asked: Rows, words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of both: logarithms of sizes, and a far step for each text."""
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    for name in NUMBERS:
        a, b = known.get(name, 0.0), asked.get(name, 0.0)
        if a.any() or b.any():
            columns.append((np.log2(1 + a), np.log2(1 + b)))
    for name in dict.fromkeys(words):
        a, b = known.words(name), asked.words(name)
        for word in sorted({*a, *b}):
            columns.append((FAR * (a == word), FAR * (b == word)))
    return tuple(np.stack([c[k] for c in columns], axis=1) for k in (0, 1))  # type: ignore[return-value]
