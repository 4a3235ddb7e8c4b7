"""The engine's entry points, compiled for the one type of `State`, or as they are.

Signatures are explicit, so that a policy is a pointer and a new one does not recompile the engine.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from forerun.sim.core import arrivals, kv, live, serve, step_end, wake
from forerun.sim.core.jit import JIT, cache_dir, jit
from forerun.sim.core.once import linked, once
from forerun.sim.core.plain import guarded
from forerun.sim.core.signatures import KINDS, numba_signatures


def is_cached() -> bool:
    """Whether these sources have been compiled on this machine before."""
    return not JIT or any(cache_dir().rglob("*.nbi"))


def _set_cache_dir() -> None:
    from numba.core import config

    setattr(config, "CACHE_DIR", str(cache_dir()))  # noqa: B010  (numba fills `config` at run time)


@cache
def entry(name: str) -> Any:
    """One of the functions below, taking a State first: compiled when first asked for (from the
    cache folder when it can be), or as it is."""
    function = {
        "advance": serve.advance,
        "abort": live.abort,
        "cut_leap": wake.cut_leap,
        "look": kv.look,
        "under_way": step_end.under_way,
        "release": arrivals.release,
    }[name]
    if not JIT:
        return lambda state, *rest: function(guarded(state), *rest)
    from numba import types
    from numba.core import config

    from forerun.sim.core import native

    _set_cache_dir()
    usual = getattr(config, "OPT")  # noqa: B009  (numba fills `config` at run time)
    # level 2 takes half a second more than level 1 and runs 3 % faster; level 3 adds nothing
    setattr(config, "OPT", type(usual)(2))  # noqa: B010
    i8 = types.int64
    takes: dict[str, list[Any]] = {"advance": [i8], "release": [i8], "look": [], "under_way": []}
    arguments = takes.get(name, [i8, i8])
    result = types.void if name in ("release", "look", "under_way") else i8
    try:
        with once(function.py_func.__qualname__):
            compiled = jit(signature=result(native.STATE, *arguments), cache=True)(function.py_func)
    finally:
        setattr(config, "OPT", usual)  # noqa: B010
    return lambda state, *rest: compiled(native.Pointer(state), *rest)


def policy(kind: str, function: Any, *, keep: bool = False) -> Any:
    """A policy function compiled for its kind; itself without the compiler.  keep : on disk."""
    assert kind in KINDS
    if not JIT:
        return function
    if keep:
        _set_cache_dir()
    with linked():
        return jit(signature=numba_signatures()[kind], cache=keep)(function)
