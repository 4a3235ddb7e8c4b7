"""Looking up token embeddings: a gather of rows, no flop."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.ops.counts import Array, Counts


def embedding(n_tokens: Array, *, width: int, weight_bytes: float = 2.0) -> Counts:
    """Bytes of reading one row a token from the table and writing it out.

        bytes = 2 * T * D * weight_bytes        # read the row, write the activation

    The table itself stays in memory untouched apart from those rows.
    """
    moved = n_tokens * width * weight_bytes
    return Counts(flop=0.0 * n_tokens, weight_bytes=moved, activation_bytes=moved)


@dataclass(frozen=True)
class Embedding:
    """`rows` of the vocabulary kept here, each `width` wide."""

    rows: int
    width: int
    weight_bytes: float = 2.0

    @property
    def stored_bytes(self) -> float:
        return self.rows * self.width * self.weight_bytes

    @property
    def params(self) -> float:
        return float(self.rows * self.width)

    def counts(self, n_tokens: Array) -> Counts:
        return embedding(n_tokens, width=self.width, weight_bytes=self.weight_bytes)
