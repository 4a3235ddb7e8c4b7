"""`Counts`: the flop and bytes of an operator on one device, and how the parts add up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any  # a float or an array of floats; every formula here broadcasts


class Counts(NamedTuple):
    """What one instance of an operator does on one device; each a float or an array.

    flop counts operations (a multiply-add is 2).  Bytes are those that must pass the main memory
    once: weights, activations in and out, and the KV cache (or recurrent state).
    """

    flop: Array
    weight_bytes: Array = 0.0
    activation_bytes: Array = 0.0
    kv_bytes: Array = 0.0

    @property
    def hbm_bytes(self) -> Array:
        """All bytes together."""
        return self.weight_bytes + self.activation_bytes + self.kv_bytes


def expected_distinct(n: Array, share: Array, draws: Array) -> Array:
    """How many of n things are hit when each of `draws` picks every one with chance `share`.

        n * (1 - (1 - share)**draws)

    Exact for independent picks.  Used for the experts a batch wakes and the devices a token visits.
    """
    draws, share = np.asarray(draws, dtype=float), np.asarray(share, dtype=float)
    hit = -np.expm1(draws * np.log1p(-np.minimum(share, 1 - 1e-15)))
    return n * np.where(share < 1.0, hit, np.minimum(draws, 1.0))
