"""`once`: what numba does for every function, done for the engine as a whole and once.

numba links each function that it meets with all that it calls, optimises that and turns it into
machine code, and does it again in each that calls it.  Those called, however far down, are linked
into the entry before it is optimised, so nothing is lost but the time.  What an operator gives for
the types of its operands it works out at each place anew, several times, and the size of a type;
whoever listens is told of each lock that it takes.  And it lets every index count from the end of
its array when it is negative, which took a quarter of all instructions; the engine has no such
index, see `plain.py`.  None of this is part of what numba promises: where it is not found, all is
the same but slower.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def once(name: str) -> Iterator[None]:
    """Optimise, and turn into machine code, the function of this name alone."""
    try:
        from llvmlite import ir
        from llvmlite.binding import ModuleRef
        from numba import _dynfunc  # type: ignore[attr-defined]
        from numba.core import codegen, cpu, event, targetconfig, types
        from numba.core.types.functions import BaseFunction
        from numba.np import arrayobj
    except ImportError:
        yield
        return
    library: Any = codegen.JITCodeLibrary
    context: Any = cpu.CPUContext
    as_whole, finish = library._optimize_final_module, library.finalize
    one_by_one = library._optimize_functions
    executable = context.get_executable
    typed = BaseFunction.get_call_type
    size_of = ir.Type.get_abi_size
    sizes: dict[str, int] = {}
    known: dict[Any, Any] = {}
    defaults: dict[type, dict[str, Any]] = {}

    def optimise(self: Any) -> None:
        if self.name == name:
            for inner in self._final_module.functions:
                if not inner.is_declaration and f"{len(name)}{name}" not in inner.name:
                    inner.linkage = "internal"  # so what has one caller becomes a part of it
            as_whole(self)

    def link(self: Any) -> None:
        if self.name == name:
            self._linking_libraries = _all_below(self)
            finish(self)
        else:
            self._finalize_dynamic_globals()
            self._finalized = True

    def callable_(self: Any, built: Any, described: Any, env: Any) -> Any:
        if built.name == name:
            return executable(self, built, described, env)
        # a name for the compiler; without an address, as nothing in Python calls an inner function
        where = described.lookup_module()
        return _dynfunc.make_function(where, described.qualname, "", 0, env, (built,))

    def values(self: Any) -> dict[str, Any]:
        """The settings of a compilation, which every call that is typed compares."""
        kind = type(self)
        if kind not in defaults:
            defaults[kind] = {key: option.default for key, option in kind.options.items()}
        return {**defaults[kind], **self._values}

    def typed_once(self: Any, where: Any, args: Any, kws: Any) -> Any:
        """The types of a call of a function or operator of numba's own."""
        key = self, args, tuple(sorted(kws.items()))
        if key not in known:
            known[key] = typed(self, where, args, kws)
        return known[key]

    def size(self: Any, described: Any, _context: Any = None) -> int:
        """Bytes of a type, which numba has LLVM read as text each time."""
        key = str(self)
        if key not in sizes:
            sizes[key] = size_of(self, described)
        return sizes[key]

    def functions(self: Any, module: Any) -> None:
        """Passes over each of the functions that a module has; those it only names get none."""

        def own(module: Any) -> list[Any]:
            return [inner for inner in named.fget(module) if not inner.is_declaration]

        named = ModuleRef.functions
        with _set(ModuleRef, "functions", property(own)):
            one_by_one(self, module)

    def from_start(to: Any, builder: Any, kind: Any, index: Any, size: Any) -> Any:
        """An index as it is: none counts from the end of its array."""
        return to.cast(builder, index, kind, types.intp)

    with ExitStack() as instead:
        instead.enter_context(_no_gc())
        for where, what, by in (
            (library, "_optimize_final_module", optimise),
            (library, "finalize", link),
            (context, "get_executable", callable_),
            (targetconfig.TargetConfig, "values", values),
            (BaseFunction, "get_call_type", typed_once),
            (library, "_optimize_functions", functions),
            (event, "broadcast", lambda _event: None),
            (ir.Type, "get_abi_size", size),
            (types.Record, "__repr__", lambda self: self.name),
            (arrayobj, "fix_integer_index", from_start),
        ):
            instead.enter_context(_set(where, what, by))
        yield


@contextmanager
def linked() -> Iterator[None]:
    """Link what is compiled here with all that it calls, where `once` left that to the entry."""
    from numba.core import codegen

    library: Any = codegen.JITCodeLibrary
    finish = library.finalize

    def link(self: Any) -> None:
        self._linking_libraries = _all_below(self)
        finish(self)

    with _set(library, "finalize", link):
        yield


def _all_below(library: Any) -> list[Any]:
    """The libraries that one calls, and those that they call, each once."""
    found: dict[Any, None] = {}
    left = list(library._linking_libraries)
    while left:
        one = left.pop()
        if one not in found:
            found[one] = None
            left += one._linking_libraries
    return list(found)


@contextmanager
def _no_gc() -> Iterator[None]:
    """What is compiled has few cycles and millions of objects to look through for them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _set(where: Any, what: str, by: Any) -> Iterator[None]:
    """An attribute is another one for a while (`unittest.mock` does it too, and loads asyncio)."""
    usual = getattr(where, what)
    setattr(where, what, by)
    try:
        yield
    finally:
        setattr(where, what, usual)
