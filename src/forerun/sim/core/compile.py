"""The engine's entry points, compiled for the one type of `State`, or as they are.

Signatures are explicit, so that a policy is a pointer and a new one does not recompile the engine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from forerun import processors
from forerun.sim.core import arrivals, batch, kv, live, serve, step_end, wake
from forerun.sim.core.jit import JIT, cache_dir, jit
from forerun.sim.core.once import linked, once
from forerun.sim.core.plain import guarded
from forerun.sim.core.signatures import KINDS, numba_signatures


def is_cached() -> bool:
    """Whether these sources have been compiled on this machine before."""
    return not JIT or _is_kept("advance")


def _is_kept(name: str) -> bool:
    return any(cache_dir().rglob(f"*.{name}-*.nbi"))


def _set_cache_dir() -> None:
    from numba.core import config

    setattr(config, "CACHE_DIR", str(cache_dir()))  # noqa: B010  (numba fills `config` at run time)


@cache
def entry(name: str) -> Any:
    """One of the functions below, taking a State first: compiled when first asked for (from the
    cache folder when it can be), or as it is."""
    function = _function(name)
    if not JIT:
        return lambda state, *rest: function(guarded(state), *rest)
    from forerun.sim.core import native

    with ExitStack() as meanwhile:
        if name == "advance" and not _is_kept(name) and processors.usable() > 1:
            for part in native.PARTS:
                meanwhile.enter_context(_compiled_beside(part))
        runs = compiled(name)
    apart = [native.address(compiled(part), of) for part, of in native.PARTS.items()]
    return lambda state, *rest: runs(native.Pointer(state, apart), *rest)


def _function(name: str) -> Any:
    return {
        "advance": serve.advance,
        "form": batch.form,
        "abort": live.abort,
        "cut_leap": wake.cut_leap,
        "look": kv.look,
        "under_way": step_end.under_way,
        "begin": arrivals.begin,
    }[name]


@cache
def compiled(name: str) -> Any:
    """The compiled function, kept in the cache folder."""
    from numba import types
    from numba.core import config

    from forerun.sim.core import native

    _set_cache_dir()
    usual = getattr(config, "OPT")  # noqa: B009  (numba fills `config` at run time)
    # level 2 takes half a second more than level 1 and runs 3 % faster; level 3 adds nothing
    setattr(config, "OPT", type(usual)(2))  # noqa: B010
    i8 = types.int64
    takes: dict[str, list[Any]] = {"advance": [i8], "begin": [i8], "look": [], "under_way": []}
    arguments = takes.get(name, [i8, i8])
    result = types.void if name in ("begin", "look", "under_way") else i8
    of = native.PARTS.get(name, result(native.STATE, *arguments))
    function = _function(name).py_func
    try:
        with once(function.__qualname__):
            return jit(signature=of, cache=True)(function)
    finally:
        setattr(config, "OPT", usual)  # noqa: B010


@contextmanager
def _compiled_beside(name: str) -> Iterator[None]:
    """Another process compiles the function into the cache folder.

    It ends before this does.  Where it failed the function is not there, and nothing else is amiss.
    """
    asked = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import compiled"
    command = [sys.executable, "-c", f"{asked}; compiled({name!r})"]
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        yield
        return
    try:
        yield
        process.wait()
    finally:
        process.kill()
        process.wait()


def policy(kind: str, function: Any, *, keep: bool = False) -> Any:
    """A policy function compiled for its kind; itself without the compiler.  keep : on disk."""
    assert kind in KINDS
    if not JIT:
        return function
    if keep:
        _set_cache_dir()
    with linked():
        return jit(signature=numba_signatures()[kind], cache=keep)(function)
