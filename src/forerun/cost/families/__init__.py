"""One file a family of operators: what it computes, its physics, what its residual depends on.

A family file defines

    OPS       values of the column `op` it answers, e.g. ("gemm",)
    NEEDS     columns without which a row is refused
    DEFAULTS  columns that may be empty, and what an empty cell means (named in `assumed`)
    KEYS      text columns whose values get coefficients of their own, e.g. ("dtype", "impl")
    COEFS     the coefficients of its physics, a tuple of `Coef`

    counts(x)               flop and bytes of each row, `ops.counts.Counts`
    start(x, s)             coefficients before any measurement, {name: float64 [N]}: from
                            `cost.efficiency`, for names that differ from `Coef.start`
    physics(x, s, c)        seconds of each row, float64 [N], from Rows, Sheet and coefficients
                            {name: float64 [N] or float}; non-decreasing in the work
    features(x, s)          {name: float64 [N]}, finite, dimensionless: what the residual of a
                            device that nobody measured may depend on
    own_features(x, s)      {name: float64 [N]}, finite: further ones (log2 of shapes, codes) for
                            the residual of a device that was measured

where tables of eager calls hold more than a kernel's own start,

    STANDS_IN               {format: formats whose kernels an engine runs where that one's measured
                            kernel is a slow path}
    GRAPH_S                 most seconds that an empty call takes in a replayed graph

where `impl` names a library, which matters, and not a kernel of the engine,

    KERNELS                 {what a library calls one of its own ways: the library}

and, where the residual of some rows is of more than a data sheet tells,

    shared(x, s)            rows of which devices teach each other a residual, bool [N]

The residual is log(measured / physics).  The file name is the family's public name.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from forerun.cost.rows import Rows
    from forerun.cost.sheet import Sheet


@dataclass(frozen=True)
class Coef:
    """A coefficient of a family's physics: its value before any fit, and the bounds of a fit.

    Fitted in its logarithm, so all three are positive.
    """

    name: str
    start: float
    low: float
    high: float
    what: str  # in words, with its unit


#: values of coefficients by name, [N] or one for all
Coefs = Mapping[str, np.ndarray | float]


def shared(module: ModuleType, x: Rows, s: Sheet) -> np.ndarray:
    """Rows of a family of which devices teach each other a residual, bool [N]."""
    given = getattr(module, "shared", None)
    return np.ones(x.n, dtype=bool) if given is None else given(x, s)


@functools.cache
def families() -> tuple[str, ...]:
    """Names of all families, sorted."""
    found = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@functools.cache
def family(name: str) -> ModuleType:
    """The family of that name."""
    return importlib.import_module(f"{__name__}.{name}")


@functools.cache
def family_of_op(op: str) -> str | None:
    """The name of the family that answers an `op`, or None."""
    for name in families():
        if op in family(name).OPS:
            return name
    return None
