"""What a tile of a product reaches of the matrix unit's rate, whose operands it has to feed."""

from __future__ import annotations

import numpy as np

#: flop a byte of operands at which a tile no longer starves the matrix unit; a 128 x 128 tile has
#: 2*128*128/(128+128) = 128.  Smaller ones lose in proportion: estimate.
FULL_TILE = 110.0


def share(rows: np.ndarray | float, columns: np.ndarray | float) -> np.ndarray:
    """Share of its rate that the matrix unit keeps with tiles of such a size, 0 to 1."""
    return np.minimum(1.0, 2 * rows * columns / (rows + columns) / FULL_TILE)
