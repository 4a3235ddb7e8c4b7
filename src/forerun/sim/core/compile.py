"""The engine's entry points, compiled for the one type of `State`, or as they are.

Signatures are explicit, so that a policy is a pointer and a new one does not recompile the engine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from forerun.sim.core import live, serve
from forerun.sim.core.jit import JIT, cache_dir, jit
from forerun.sim.core.signatures import KINDS, numba_signatures

#: the order in which `advance` takes its policies
POLICIES = ("order", "admit", "batch", "preempt", "route")


class Core(NamedTuple):
    """What a driver calls, with a State first."""

    advance: Any  # (state, until_ps, *policies) -> reason
    abort: Any  # (state, r, t) -> 1 when the replica must be cut at its next boundary
    cut_leap: Any  # (state, i, t)


def is_cached() -> bool:
    """Whether these sources have been compiled on this machine before."""
    return not JIT or any(cache_dir().rglob("*.nbi"))


def _set_cache_dir() -> None:
    from numba.core import config

    setattr(config, "CACHE_DIR", str(cache_dir()))  # noqa: B010  (numba fills `config` at run time)


@lru_cache(maxsize=1)
def core() -> Core:
    """The core, compiled (from the cache folder when it can be) or as it is."""
    if not JIT:
        return Core(serve.advance, live.abort, serve.cut_leap)
    from numba import types
    from numba.core import config

    from forerun.sim.core import native

    _set_cache_dir()
    usual = getattr(config, "OPT")  # noqa: B009  (numba fills `config` at run time)
    # level 1 compiles in two thirds of the time of level 3 and runs as fast (benchmarks/)
    setattr(config, "OPT", type(usual)(1))  # noqa: B010
    i8 = types.int64
    kinds = numba_signatures()
    policies = [types.FunctionType(kinds[kind]) for kind in POLICIES]

    def entry(function: Any, *arguments: Any) -> Any:
        compiled = jit(signature=i8(native.STATE, *arguments), cache=True)(function.py_func)
        return lambda state, *rest: compiled(native.Pointer(state), *rest)

    try:
        return Core(
            entry(serve.advance, i8, *policies),
            entry(live.abort, i8, i8),
            entry(serve.cut_leap, i8, i8),
        )
    finally:
        setattr(config, "OPT", usual)  # noqa: B010


def policy(kind: str, function: Any, *, cache: bool = False) -> Any:
    """A policy function compiled for its kind; itself without the compiler."""
    assert kind in KINDS
    if not JIT:
        return function
    if cache:
        _set_cache_dir()
    return jit(signature=numba_signatures()[kind], cache=cache)(function)
