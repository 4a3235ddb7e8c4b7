"""How the parts of a kernel's time join: the longest bounds, the others show at its edges."""

from __future__ import annotations

import numpy as np


def powers(parts: tuple[np.ndarray, ...], p: np.ndarray | float) -> np.ndarray:
    """(sum of p-th powers)**(1/p) without overflow."""
    most = np.maximum.reduce(parts)
    safe = np.where(most > 0, most, 1.0)
    return most * sum((part / safe) ** p for part in parts) ** (1.0 / np.asarray(p))
