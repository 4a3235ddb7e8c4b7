"""Cells of a row of `forerun predict serving` as values, each with the sentence that refuses it.

Cells are text, "" where not given.  What is no number, negative, infinite or larger than any row
may have raises SpecError with its column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from forerun.errors import SpecError, nearest
from forerun.spec.dtype import DTYPES

#: of a row at most, because a table has many; columns by the end of their name
MOST = {
    "isl": 1 << 22, "osl": 1 << 22, "concurrency": 2_000_000, "n_requests": 2_000_000,
    "max_batch": 8192, "max_tokens_per_step": 1 << 20, "_batch": 8192,
}  # fmt: skip
LONGEST_NAME = 200
MOST_DEVICES = 65_536  # of any other count: devices, stages, groups, replicas


def most(name: str) -> int:
    """The largest count that a column may hold."""
    return MOST.get(name, MOST["_batch"] if name.endswith("_batch") else MOST_DEVICES)


def number(row: Mapping[str, str], name: str) -> float | None:
    """A number of zero or more, inf included; None where not given."""
    cell = row.get(name, "").strip()
    if cell == "":
        return None
    try:
        value = float(cell)
    except ValueError:
        raise SpecError.one(name, f"{_short(cell)!r} is not a number", f"{name}: 8") from None
    if not value >= 0:
        raise SpecError.one(name, f"{_short(cell)} is negative or no number", f"{name}: 8")
    return value


def whole(row: Mapping[str, str], name: str) -> int | None:
    """A count; 0 is as not given."""
    value = number(row, name)
    if value is None or value == 0:
        return None
    if math.isinf(value):
        raise SpecError.one(name, "inf is not a count", f"{name}: 8")
    if value != round(value):
        fix = f"{name}: {max(1, round(value))}"
        raise SpecError.one(name, f"{value:g} is not a whole number", fix)
    check_most(name, int(value))
    return int(value)


def check_most(name: str, value: int) -> None:
    """Raises SpecError for a count that is larger than a row may have."""
    if value > most(name):
        said = f"{value:,}" if value < 1e15 else f"{value:.3g}"
        what = f"{said} is more than the {most(name):,} that a row may have"
        raise SpecError.one(name, what, f"{name}: {most(name)}")


def dtype(row: Mapping[str, str], name: str) -> str | None:
    """A number format; None where not given."""
    asked = row.get(name, "").strip().lower()
    if not asked:
        return None
    if asked not in DTYPES:
        raise SpecError.one(
            name, f"{_short(asked)!r} is not known", nearest(asked, DTYPES) or ", ".join(DTYPES)
        )
    return asked


def word(row: Mapping[str, str], name: str) -> str:
    """A name or a path; "" where not given."""
    value = row.get(name, "").strip()
    if len(value) > LONGEST_NAME or not value.isprintable():
        raise SpecError.one(name, f"{_short(value)!r} is no name", "a name of the catalog")
    return value


def needed(row: Mapping[str, str], name: str, fix: str) -> str:
    """A word that must be there."""
    value = word(row, name)
    if not value:
        raise SpecError.one(name, "is not given", fix)
    return value


def power_of_two(n: int) -> int:
    """The power of two that n fits in."""
    return 1 << (n - 1).bit_length()


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else cell[:37] + "..."
