"""Tables in and out: CSV (gzip too) or Parquet as named columns of text or numbers."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import MissingDependency, Problem, SpecError

PART = 4096  # rows of a text file that are lists at a time


@dataclass(frozen=True, eq=False)
class Columns:
    """A table.  A cell that is empty in the file is "" here; every cell is text."""

    names: tuple[str, ...]
    cells: Mapping[str, np.ndarray]  # object (str) [N]
    n: int
    lines: Sequence[int] = ()  # of a text file: the line each row begins on, counted from 1

    def place(self, i: int) -> str:
        """Where a row stands in its file: ":7" is a line, " row 6" a row of a Parquet file."""
        return f":{self.lines[i]}" if self.lines else f" row {i + 1}"

    def text(self, name: str) -> np.ndarray:
        """A column as text, "" where it is not given."""
        return self.cells[name] if name in self.cells else np.full(self.n, "", dtype=object)

    def words(self, name: str, *, lower: bool = False) -> np.ndarray:
        """A column of names: text with single spaces, in lower case where that is asked for."""
        cells = self.text(name)
        known = {cell: " ".join(cell.split()) for cell in set(cells)}
        if lower:
            known = {cell: word.lower() for cell, word in known.items()}
        return np.array([known[cell] for cell in cells], dtype=object)

    def number(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(float64 [N] with NaN for empty cells, bool [N] cells that are not a number)."""
        if name not in self.cells:
            return np.full(self.n, np.nan), np.zeros(self.n, dtype=bool)
        cells = np.where(self.cells[name] == "", "nan", self.cells[name])
        try:
            return cells.astype(float), np.zeros(self.n, dtype=bool)
        except ValueError:
            values = [_number(cell) for cell in cells]
            bad = np.array([value is None for value in values])
            return np.array([np.nan if value is None else value for value in values]), bad


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def read_columns(path: str | Path) -> Columns:
    """The table in a file; the kind is told by its content.

    Raises SpecError for a file that is missing, empty, damaged, not UTF-8, without a header, with a
    column that stands twice, or with rows of another length than the header's (all of them named).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SpecError.one(str(path), f"is damaged gzip ({error})", "fetch it again") from None
    except OSError as error:
        what = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise SpecError.one(str(path), what, "a CSV or Parquet file") from None
    if data[:4] == b"PAR1":
        return _parquet(data, path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.start})"
        raise SpecError.one(str(path), what, "save it as CSV in UTF-8, or as Parquet") from None
    return _csv(text, path)


def _csv(text: str, path: Path) -> Columns:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    names: tuple[str, ...] = ()
    columns: list[list[str]] = []
    lines: list[int] = []
    bad = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for rows, begins in _in_parts(reader):
            if not names:
                names = tuple(name.strip() for name in rows[0])
                _check_names(names, path)
                columns = [[] for _ in names]
                rows, begins = rows[1:], begins[1:]
            wrong = [i for i, row in enumerate(rows) if len(row) != len(names)]
            bad += [(begins[i], len(rows[i])) for i in wrong]
            lines += begins
            for column, part in zip(columns, zip(*rows, strict=not wrong), strict=False):
                column.extend(map(str.strip, part))
    except csv.Error as error:
        raise SpecError.one(str(path), f"is not CSV: {error}", "save it as CSV again") from None
    if not names:
        raise SpecError.one(str(path), "is empty", "a header line and a row below it")
    if bad:
        raise SpecError(*(
            Problem(f"{path}:{line}", f"has {n} cells under {len(names)} names",
                    "quote cells that hold the delimiter") for line, n in bad[:20]
        ))  # fmt: skip
    cells = {n: np.array(column, dtype=object) for n, column in zip(names, columns, strict=True)}
    return Columns(names, cells, len(lines), lines)


def _in_parts(reader: Any) -> Iterator[tuple[list[list[str]], list[int]]]:
    """(rows that are not empty, the line on which each begins) of a CSV reader, PART at a time: so
    that lists of a million rows are not all there at once."""
    begin, rows, lines = 1, [], []
    for row in reader:
        if row:
            rows.append(row)
            lines.append(begin)
        begin = reader.line_num + 1
        if len(rows) == PART:
            yield rows, lines
            rows, lines = [], []
    if rows:
        yield rows, lines


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        what = f"column {twice[0]!r} stands there twice"
        raise SpecError.one(f"{path}:1", what, "a name of its own for each column")


def _parquet(data: bytes, path: Path) -> Columns:
    frames = _polars(path)
    try:
        frame = frames.read_parquet(io.BytesIO(data))
    except Exception as error:  # polars' own exceptions have no common base that is public
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError.one(str(path), f"is damaged Parquet ({first})", "write it again") from None
    cells = {
        name: np.array(["" if v is None else str(v) for v in frame[name]], dtype=object)
        for name in frame.columns
    }
    return Columns(tuple(frame.columns), cells, frame.height)


def write_columns(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Write a table; the name's ending decides: .parquet, .csv.gz, else CSV.

    columns : arrays or lists of equal length; NaN and None become empty cells.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".parquet":
            frames = _polars(path)
            plain = {name: _values(column) for name, column in columns.items()}
            frames.DataFrame(plain, strict=False).write_parquet(part)
        else:
            text = as_csv(columns)
            body = text.encode()
            part.write_bytes(gzip.compress(body, mtime=0) if path.suffix == ".gz" else body)
        part.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError.one(str(path), f"cannot be written: {reason}", "another path") from None


def as_csv(columns: Mapping[str, Any]) -> str:
    """The table as CSV text; numbers with nine significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_shown, columns.values()), strict=True))
    return out.getvalue()


def _values(column: Any) -> list[Any]:
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    return [None if isinstance(v, float) and v != v else v for v in values]


def _shown(column: Any) -> list[str]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        return ["" if v != v else f"{v:.9g}" for v in column.tolist()]
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return [v if isinstance(v, str) else _cell(v) for v in values]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.9g}"
    return "" if value is None else str(value)


def _polars(path: Path) -> Any:
    try:
        import polars
    except ImportError:
        raise MissingDependency.one(
            str(path), "Parquet needs polars", "pip install 'forerun[tables]'"
        ) from None
    return polars
