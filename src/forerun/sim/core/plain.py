"""`State` as plain Python sees it: arrays that refuse a negative index.

Compiled code does not count from the end of an array (see `once.py`): what is -1 because there is
nothing must not be looked up.  Whoever does so by mistake hears of it here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.sim.core.signatures import KINDS
from forerun.sim.core.state import LAYOUT, State


class Guarded(np.recarray):
    """An array whose indices count from its start."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(_from_start(index))
        return found.view(Guarded) if isinstance(found, np.ndarray) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_from_start(index), value)

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))

    __str__ = __repr__


def _from_start(index: Any) -> Any:
    for one in index if isinstance(index, tuple) else (index,):
        if isinstance(one, int | np.integer) and one < 0:
            raise IndexError(f"index {one}: compiled, this would not be the array's end")
    return index


def guarded(state: Any) -> Any:
    """The same arrays, guarded, and the same policies, which get theirs as they are."""

    def unguarded(policy: Any) -> Any:
        return lambda *args: policy(*(np.asarray(a) if type(a) is Guarded else a for a in args))

    arrays = [getattr(state, name).view(Guarded) for name in LAYOUT]
    return State(*arrays, *(unguarded(getattr(state, kind)) for kind in KINDS))
