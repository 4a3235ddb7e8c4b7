"""Which measured rows are kept back from a fit: by shape, the same ones every time; and by what a
row is told again that was used for one."""

from __future__ import annotations

import zlib
from collections.abc import Set

import numpy as np

from forerun.cost.rows import NUMBERS, Rows

SHARE = 0.2  # of the distinct shapes that is held out
MARKS = 96  # of the rows of one table that a calibration remembers


def held_out(x: Rows, *, share: float = SHARE, salt: int = 0) -> np.ndarray:
    """Rows whose shape is kept back, bool [N].

    A shape is its numbers alone, so it is kept back under every device, runtime and format at once:
    nothing learns it by another name.
    """
    return (_mixed(x, salt) >> np.uint64(11)).astype(float) / 2.0**53 < share


def _mixed(x: Rows, salt: int = 0, more: tuple[np.ndarray, ...] = ()) -> np.ndarray:
    """The numbers of each row, and more float64 [N], as 64 bits that look random, uint64 [N]."""
    mixed = np.full(x.n, 0x9E3779B97F4A7C15 + salt, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for value in (*(x.get(name) for name in NUMBERS), *more):
            bits = np.nan_to_num(value, nan=-1.0).view(np.uint64)
            mixed = (mixed ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x94D049BB133111EB)
    return mixed


def marks(x: Rows, time_s: np.ndarray, *, most: int = MARKS) -> tuple[str, ...]:
    """Some rows, told by shape, time and operator: the `most` least of their hashes, sorted.

    The same rows in a file of another name, order or unit have the same marks, and of a part of
    them about that part.  Times count to four digits, so that a unit's rounding changes none.
    """
    return tuple(_hashes(x, time_s)[:most])


def n_marked(x: Rows, time_s: np.ndarray, known: Set[str]) -> int:
    """How many of the rows have one of these marks."""
    return len(set(_hashes(x, time_s)) & known)


def _hashes(x: Rows, time_s: np.ndarray) -> list[str]:
    tens = np.floor(np.log10(time_s))
    digits = (np.rint(time_s / 10.0**tens * 1e3), tens)
    words = x.words("op")
    codes = {word: float(zlib.crc32(str(word).encode())) for word in set(words)}
    op = np.array([codes[word] for word in words], dtype=float)
    return [f"{v:010x}" for v in np.unique(_mixed(x, more=(*digits, op)) >> np.uint64(24)).tolist()]


def parts_of(x: Rows, n: int) -> np.ndarray:
    """One of n parts for each row, by its shape as above, int [N]."""
    return sum((held_out(x, share=k / n).astype(int) for k in range(1, n)), np.zeros(x.n, int))
