"""Workloads that ship with Forerun: parameters fitted from public traces, none of their rows."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

from forerun.errors import SpecError, nearest
from forerun.spec.traces.synth import Synth
from forerun.spec.traces.synth import load as _load

_FOLDER = files("forerun") / "catalog" / "workloads"


def names() -> tuple[str, ...]:
    """Names of the bundled workloads."""
    found = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(n.removesuffix(".yaml") for n in found if n.endswith(".yaml")))


@cache
def load(name: str) -> Synth:
    """A bundled workload.  Raises SpecError with the nearest name when there is none."""
    if name not in names():
        what = f"no bundled workload is called {name!r}"
        raise SpecError.one("traffic.trace", what, nearest(name, names()))
    with as_file(_FOLDER / f"{name}.yaml") as path:
        return _load(path)
