"""`kept`: what follows from rows alone is worked out once for them.

A fit asks a closed form again and again for the same rows, with other coefficients each time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

T = TypeVar("T")


def kept(work: Callable[..., T]) -> Callable[..., T]:
    """`work(owner, *others)`, kept as long as the owner lives and the others are the same objects.

    Arrays that come back are read-only.
    """
    known: WeakKeyDictionary[Any, tuple[tuple[Any, ...], T]] = WeakKeyDictionary()

    @functools.wraps(work)
    def once(owner: Any, *others: Any) -> T:
        found = known.get(owner)
        if found is None or any(a is not b for a, b in zip(found[0], others, strict=True)):
            found = known[owner] = others, _read_only(work(owner, *others))
        return found[1]

    return once


def _read_only(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    elif isinstance(value, tuple):
        parts = [_read_only(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
