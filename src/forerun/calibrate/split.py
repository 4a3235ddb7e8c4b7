"""Which measured rows are kept back from a fit: by shape, the same ones every time."""

from __future__ import annotations

import numpy as np

from forerun.cost.rows import NUMBERS, Rows

SHARE = 0.2  # of the distinct shapes that is held out


def held_out(x: Rows, *, share: float = SHARE, salt: int = 0) -> np.ndarray:
    """Rows whose shape is kept back, bool [N].

    A shape is its numbers alone, so it is kept back under every device, runtime and format at once:
    nothing learns it by another name.
    """
    mixed = np.full(x.n, 0x9E3779B97F4A7C15 + salt, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in NUMBERS:
            bits = np.nan_to_num(x.get(name), nan=-1.0).view(np.uint64)
            mixed = (mixed ^ bits) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(11)).astype(float) / 2.0**53 < share


def parts_of(x: Rows, n: int) -> np.ndarray:
    """One of n parts for each row, by its shape as above, int [N]."""
    return sum((held_out(x, share=k / n).astype(int) for k in range(1, n)), np.zeros(x.n, int))
