"""Texts as numbers that are the same in every run, for trees to split on."""

from __future__ import annotations

import zlib

import numpy as np

from forerun.cost.rows import Rows


def code(x: Rows, names: tuple[str, ...]) -> np.ndarray:
    """A number for each combination of texts, float64 [N]."""
    columns = [x.words(name) for name in names]
    if x.n and all((column == column[0]).all() for column in columns):
        one = "|".join(str(column[0]) for column in columns)
        return np.full(x.n, float(zlib.crc32(one.encode()) % 8191))
    words = ["|".join(map(str, row)) for row in zip(*columns, strict=True)]
    number = {word: zlib.crc32(word.encode()) % 8191 for word in set(words)}
    return np.array([number[word] for word in words], dtype=float)
