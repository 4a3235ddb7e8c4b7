"""`Rows`: many operators as columns, measured or asked about, in the words of `predict ops`.

One row is one operator on one device.  A column that a row does not give holds NaN (numbers) or ""
(texts).  Tables that others measured are read into these columns, a model's layers are written as
them, and every family of `cost.families` reads them: one vocabulary for fitting and predicting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: columns of text.  runtime: "vllm 0.24.0"; impl: the kernel or library where it is known
TEXTS = ("device", "runtime", "op", "dtype", "kv_dtype", "distribution", "impl")

#: columns of numbers: those of the contract, then ours:
#:   width         elements of one row of a row-wise operator (n_tokens rows)
#:   read_bytes    bytes one row reads, where they do not follow from width and dtype
#:   write_bytes   bytes one row writes, the same
#:   causal        1 (default) when a query sees itself and what came before, 0 for encoders
#:   n_decode      decoding requests in the same kernel as a prefill chunk
#:   past_decode   tokens in the cache of each of them
#:   gated         1 (default) for gated experts, 0 for two products instead of three
#:   n_active      distinct experts woken, where it was counted
NUMBERS = (
    "m", "n", "k", "batch", "isl", "past", "n_heads", "n_kv_heads", "head_dim", "v_head_dim",
    "q_lora_rank", "kv_lora_rank", "rope_dim", "window", "n_tokens", "hidden", "inter", "topk",
    "n_experts", "moe_tp", "moe_ep", "n_gpus", "n_nodes", "bytes", "graphs",
    "width", "read_bytes", "write_bytes", "causal", "n_decode", "past_decode", "gated", "n_active",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rows:
    """N operators.  Missing columns read as not given."""

    n: int
    number: Mapping[str, np.ndarray]  # float64 [N] each
    text: Mapping[str, np.ndarray]  # str [N] each

    def get(self, name: str, default: float | None = None) -> np.ndarray:
        """A column of numbers, float64 [N]; cells that are not given hold `default` (or NaN)."""
        column = self.number.get(name)
        if column is None:
            column = np.full(self.n, np.nan)
        return column if default is None else np.where(np.isnan(column), default, column)

    def words(self, name: str, default: str = "") -> np.ndarray:
        """A column of text, str [N]; cells that are not given hold `default`."""
        column = self.text.get(name)
        if column is None:
            return np.full(self.n, default, dtype=object)
        return np.where(column == "", default, column) if default else column

    def take(self, which: np.ndarray | slice) -> Rows:
        """The rows an index or a mask picks."""
        number = {name: column[which] for name, column in self.number.items()}
        text = {name: column[which] for name, column in self.text.items()}
        return Rows(len(np.arange(self.n)[which]), number, text)

    def filled(self, defaults: Mapping[str, float | str]) -> Rows:
        """The same rows with defaults in the cells that are not given."""
        number, text = dict(self.number), dict(self.text)
        for name, value in defaults.items():
            if isinstance(value, str):
                text[name] = self.words(name, value)
            else:
                number[name] = self.get(name, value)
        return Rows(self.n, number, text)


def rows(count: int | None = None, /, **columns: object) -> Rows:
    """Rows from keywords: arrays of N (given as `count` when none is an array), or single
    values for all rows.

    Raises KeyError for a name that is no column, ValueError where lengths differ.
    """
    unknown = sorted(set(columns) - set(NUMBERS) - set(TEXTS))
    if unknown:
        raise KeyError(f"no such column: {', '.join(unknown)}")
    lengths = {len(c) for c in columns.values() if isinstance(c, Sequence | np.ndarray)
               and not isinstance(c, str) and np.ndim(c) == 1}  # fmt: skip
    if count is None:
        count = lengths.pop() if lengths else 1
        if lengths:
            raise ValueError(f"columns of {count} and of {lengths.pop()} rows")
    number = {
        name: np.broadcast_to(np.asarray(value, dtype=float), (count,))
        for name, value in columns.items() if name in NUMBERS
    }  # fmt: skip
    text = {
        name: np.broadcast_to(np.asarray(value, dtype=object), (count,))
        for name, value in columns.items() if name in TEXTS
    }  # fmt: skip
    return Rows(count, number, text)


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several tables one below the other; a column that some lack is not given there."""
    names = {name for part in parts for name in part.number}
    words = {name for part in parts for name in part.text}
    return Rows(
        sum(part.n for part in parts),
        {name: np.concatenate([part.get(name) for part in parts]) for name in sorted(names)},
        {name: np.concatenate([part.words(name) for part in parts]) for name in sorted(words)},
    )
