"""One random stream a name, all from one seed.

Two runs with the same seed see the same draws in every stream they share, whatever else differs:
changing the arrival process leaves the lengths as they were.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from forerun.errors import SpecError


@lru_cache(maxsize=1024)
def subseed(seed: int, name: str) -> int:
    """The first whole number below 2**63 of a named stream, which compiled code draws from."""
    return int(stream(seed, name).integers(0, 2**63, dtype=np.uint64))


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of a named stream (`arrivals`, `lengths`, `acceptance`, `routing`, `failures`).

    The name is hashed with SHA-256, so the same pair gives the same numbers on every machine and
    in every version of Python.  Raises SpecError if the seed is not a whole number >= 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise SpecError.one("seed", f"{seed!r} is not a whole number >= 0", "seed: 0")
    digest = hashlib.sha256(name.encode()).digest()
    key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12))
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed), spawn_key=key)))
