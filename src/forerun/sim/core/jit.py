"""`jit`: numba's compiler, or nothing at all.

FORERUN_JIT=0 leaves every function plain Python, so that a policy or the engine can be stepped
through in a debugger; the logs are identical.  Compiled code is kept in the user's cache folder
under a hash of all sources of this room, because numba alone would not notice that a function
compiled into another one has changed.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from forerun import paths

JIT = os.environ.get("FORERUN_JIT", "1") != "0"


@cache
def _digest() -> str:
    """Of the sources as this process has them: what changes later is not what it runs."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def cache_dir() -> Path:
    """Where compiled code of exactly these sources is kept."""
    return paths.cache_dir() / "compiled" / _digest()


if JIT:
    import numba

    from forerun.sim.core.passes import Compiler

    def jit(function=None, *, signature=None, cache=False):
        """Compile now for `signature`, or where compiled code calls it; errors are numpy's."""
        if function is None:
            return lambda f: jit(f, signature=signature, cache=cache)
        options: Any = {"cache": cache, "error_model": "numpy", "nogil": True, "_nrt": False}
        if signature is not None:
            return numba.njit(signature, **options)(function)
        # only the engine itself calls it: no way in from Python, and one version for all constants
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        options["pipeline_class"] = Compiler
        inner: Any = numba.njit(**options)(function)
        resolve = inner.get_call_template
        inner.get_call_template = lambda args, kws: resolve(
            tuple(map(numba.types.unliteral, args)), kws
        )
        return inner

else:

    def jit(function=None, *, signature=None, cache=False):
        """The function itself."""
        return function if function is not None else lambda f: f
