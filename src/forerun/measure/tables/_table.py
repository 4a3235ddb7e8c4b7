"""`Table`: measured operators with their seconds, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forerun.cost.rows import Rows
from forerun.errors import MissingDependency, SpecError


@dataclass(frozen=True, eq=False)
class Table:
    """Rows measured by one party with one tool."""

    rows: Rows
    time_s: np.ndarray  # float64 [N]
    name: str  # "aiconfigurator_ops/h100_sxm/vllm-0.24.0/gemm"
    origin: str  # who measured, where it was published
    licence: str
    n_dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows


@dataclass(frozen=True, eq=False)
class Frame:
    """A polars frame that knows its file, so that what it lacks is said with the place."""

    path: Path
    data: Any
    begin: int = 2  # line of the file that the first row stands on

    @property
    def columns(self) -> list[str]:
        return list(self.data.columns)

    @property
    def height(self) -> int:
        return int(self.data.height)

    def __getitem__(self, name: str) -> Any:
        needed(self, (name,), self.path)
        return self.data[name]

    def place(self, i: int) -> str:
        """Where row i stands: "file:7" in a CSV, "file row 6" in a Parquet file."""
        if self.path.suffix == ".parquet":
            return f"{self.path} row {i + 1}"
        return f"{self.path}:{i + self.begin}"


def table_of(path: Path) -> Frame:
    """The rows of a published file.

    Raises what `frame_of` does, and SpecError for a file without rows.
    """
    frame = frame_of(path)
    if not frame.height:
        raise SpecError.one(str(path), "has a header and no row below it", "fetch it again")
    return Frame(path, frame)


def frame_of(path: Path) -> Any:
    """A polars frame of a CSV (gzip too) or Parquet file.

    Raises MissingDependency without polars, SpecError for a file that cannot be read.
    """
    try:
        import polars
    except ImportError:
        raise MissingDependency.one(
            str(path), "tables are read with polars", "pip install 'forerun[tables]'"
        ) from None
    try:
        if path.suffix == ".parquet":
            return polars.read_parquet(path)
        return polars.read_csv(path, infer_schema_length=10_000)
    except Exception as error:  # polars' own exceptions have no common base that is public
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError.one(str(path), f"cannot be read: {first}", "fetch it again") from None


def needed(frame: Any, columns: tuple[str, ...], path: Path) -> None:
    """Raises SpecError that names every column a file lacks."""
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        have = ", ".join(frame.columns[:12])
        what = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        raise SpecError.one(str(path), what, f"it has {have}")


def numbers(frame: Any, name: str) -> np.ndarray:
    """A column as float64 [N], NaN where it is empty.

    Raises SpecError where a cell of a `Frame` holds words: taken for empty, a default would stand
    for what was measured.
    """
    column = frame[name]
    cast = column.cast(float, strict=False)
    if isinstance(frame, Frame) and cast.null_count() > column.null_count():
        words = cast.is_null() & column.is_not_null()
        at = np.flatnonzero(words.to_numpy())
        more = f", and {len(at) - 1:,} more" if len(at) > 1 else ""
        what = f"{str(column[int(at[0])])[:40]!r} is not a number{more}"
        raise SpecError.one(f"{frame.place(int(at[0]))} {name}", what, "fetch it again")
    return cast.fill_null(float("nan")).to_numpy().astype(float)


def texts(frame: Any, name: str) -> np.ndarray:
    """A column as str objects [N], "" where it is empty."""
    return np.array([str(v) if v is not None else "" for v in frame[name].to_list()], dtype=object)


def mapped(values: np.ndarray, known: Mapping[str, Any], where: str) -> np.ndarray:
    """Each text by its meaning, [N].  Raises SpecError for texts that have none, all at once."""
    strange = sorted({str(v) for v in values} - set(known))
    if strange:
        shown = ", ".join(v or "an empty cell" for v in strange)
        raise SpecError.one(where, f"{shown} not known", f"one of {', '.join(known)}")
    return np.array([known[str(v)] for v in values], dtype=object)


def only(frame: Frame, name: str) -> str:
    """The one text of a column that says what kind of table it is.

    Raises SpecError where it says several: rows of one kind would be read as another.
    """
    found = sorted(set(texts(frame, name)))
    if len(found) != 1:
        shown = ", ".join(v or "an empty cell" for v in found[:5])
        raise SpecError.one(f"{frame.path} {name}", f"is {shown}", "one of them in each file")
    return str(found[0])
