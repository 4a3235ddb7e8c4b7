"""What operators are timed with here, one file a library; the file name is the backend's name.

A backend file defines

    missing() -> str           "" where it can run, else a sentence that says what to install
    bench(threads) -> Bench    ready to time operators; GPUs ignore the threads

A `Bench` runs one operator of `forerun predict ops` at a time:

    device, runtime, dtype     as they stand in the table; device is "" where it is this machine's
                               processor, whose sheet is measured too
    kinds                      `points.Kind`s it has operators for
    versions                   what else was involved, in words
    prepare(row)               a function that runs the operator once more and returns its seconds
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

from forerun.errors import MissingDependency, SpecError, nearest
from forerun.measure.points import Kind


class Bench(Protocol):
    """A library on a device, ready to time operators."""

    device: str
    runtime: str
    dtype: str
    versions: str
    kinds: tuple[Kind, ...]

    def prepare(self, row: Mapping[str, Any]) -> Callable[[], float]:
        """Seconds of one more run of the operator, each time it is called."""


def not_installed(*names: str, fix: str) -> str:
    """A sentence that names the packages that are not here, "" where all are."""
    lacking = [name for name in names if importlib.util.find_spec(name) is None]
    if not lacking:
        return ""
    return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed; {fix}"


@functools.cache
def backends() -> tuple[str, ...]:
    """Names of all backends, sorted."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def backend(name: str) -> ModuleType:
    """The backend of that name.  Raises SpecError with the nearest names."""
    key = name.strip().lower().replace("-", "_")
    if key not in backends():
        raise SpecError.one(f"backend {name!r}", "is not known", nearest(key, backends()))
    return importlib.import_module(f"{__name__}.{key}")


def here() -> tuple[str, ...]:
    """Names of the backends that can run on this machine, sorted."""
    return tuple(name for name in backends() if not backend(name).missing())


def ready(name: str, threads: int) -> Bench:
    """A backend's bench.  Raises MissingDependency with what to install."""
    module = backend(name)
    if why := module.missing():
        what, _, fix = why.partition("; ")
        raise MissingDependency.one(f"backend {name}", what, fix)
    made: Bench = module.bench(threads)
    return made
