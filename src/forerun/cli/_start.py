"""What a command may leave out of its start."""

from __future__ import annotations

import importlib.util
import os


def without_blas() -> None:
    """Lets the compiler start without loading SciPy, which takes 0.1 s of a prediction.

    Where SciPy is installed, numba loads its BLAS only to learn that it is there.  Nothing of ours
    multiplies matrices in compiled code; a policy of a user's that does gets it at that moment.
    """
    if os.environ.get("FORERUN_JIT", "1") == "0" or importlib.util.find_spec("scipy") is None:
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
