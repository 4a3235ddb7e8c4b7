"""What a command may leave out of its start."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path


def without_blas() -> None:
    """Lets the compiler start without loading SciPy, which takes 0.1 s of a prediction.

    Where SciPy is installed, numba loads its BLAS only to learn that it is there.  Nothing of ours
    multiplies matrices in compiled code; a policy of a user's that does gets it at that moment.
    """
    if os.environ.get("FORERUN_JIT", "1") == "0":
        return
    _import_numba()
    if importlib.util.find_spec("scipy") is None:
        return
    import numba.np.linalg as linalg

    usual = getattr(linalg, "ensure_blas", None)
    if usual is None:  # another numba
        return
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401  (asks, once, when it is imported)
    finally:
        linalg.ensure_blas = usual


def _import_numba() -> None:
    """Import the compiler without PyYAML, which it loads for a file of settings of its own."""
    alone = "yaml" not in sys.modules and not Path(".numba_config.yaml").exists()
    if alone:
        sys.modules["yaml"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import numba  # noqa: F401
    finally:
        if alone:
            del sys.modules["yaml"]
