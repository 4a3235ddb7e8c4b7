"""How many threads the libraries under numpy use; they read it once, when they are loaded."""

from __future__ import annotations

import os
import sys

VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


def pin(threads: int) -> bool:
    """Sets the number for libraries that are not loaded yet; False where numpy is already here."""
    if "numpy" in sys.modules:
        return False
    for name in VARIABLES:
        os.environ[name] = str(threads)
    return True


def pinned() -> int | None:
    """The number that was set, None where none was."""
    told = {os.environ.get(name, "") for name in VARIABLES[:3]}
    return int(told.pop()) if len(told) == 1 and max(told).isdigit() else None
