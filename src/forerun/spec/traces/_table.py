"""CSV columns as arrays: numpy's parser for good rows, a careful one to say which rows are bad."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import ForerunError, Problem, TraceError, nearest
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, blocks

_WIDTH = {"clock": 40, "text": 96}


@dataclass(frozen=True)
class Column:
    """A column that is wanted: its possible header names (lower case) and what it holds.

    kind: "number" (float64), "clock" (int64 nanoseconds since 1970 UTC) or "text" (codes into
    labels, in order of first appearance).
    """

    names: tuple[str, ...]
    kind: str = "number"
    required: bool = True


@dataclass
class Table:
    """Columns of the well-formed rows, and the line each came from."""

    columns: dict[str, np.ndarray]
    lines: np.ndarray  # int64 [N]
    n_rows: int  # bad ones included
    labels: dict[str, list[str]] = field(default_factory=dict)


def read_csv(head: Head, wanted: Mapping[str, Column], faults: Faults) -> Table:
    """The wanted columns of a CSV file.  Malformed rows go to `faults`; a blank line is no row."""
    place = _places(head, wanted)
    kinds = {name: wanted[name].kind for name in place}
    codes: dict[str, dict[str, int]] = {n: {} for n, kind in kinds.items() if kind == "text"}
    parts: list[dict[str, np.ndarray]] = []
    numbers: list[np.ndarray] = []
    n_rows = 0
    for first, lines in blocks(head.path):
        number = np.arange(first, first + len(lines))
        if any(not line or line.isspace() for line in lines):
            keep = [i for i, line in enumerate(lines) if line and not line.isspace()]
            lines, number = [lines[i] for i in keep], number[keep]
        if first == 1 and lines:  # the header
            lines, number = lines[1:], number[1:]
        n_rows += len(lines)
        if not lines:
            continue
        columns = _fast(lines, head, place, kinds)
        if columns is None:
            columns, number = _careful(lines, number, head, place, kinds, faults)
        for name, known in codes.items():
            columns[name] = _coded(columns[name], known)
        parts.append(columns)
        numbers.append(number)
    if not parts:
        what = "there is a header, and no row below it"
        raise TraceError.one(str(head.path), what, "a trace holds at least one request")
    return Table(
        {name: np.concatenate([part[name] for part in parts]) for name in place},
        np.concatenate(numbers),
        n_rows,
        {name: list(known) for name, known in codes.items()},
    )


def _places(head: Head, wanted: Mapping[str, Column]) -> dict[str, int]:
    place, problems = {}, []
    for name, column in wanted.items():
        found = [n for n in column.names if n in head.columns]
        twice = [n for n in found if head.columns.count(n) > 1]
        if twice:
            problems.append(Problem(f"{head.path}:1", f"column {twice[0]!r} stands there twice"))
        elif found:
            place[name] = head.columns.index(found[0])
        elif column.required:
            what = f"no column {' or '.join(map(repr, column.names[:4]))}"
            problems.append(Problem(f"{head.path}:1", what, nearest(column.names[0], head.columns)))
    if problems:
        raise TraceError(*problems)
    return place


def _fast(
    lines: list[str], head: Head, place: Mapping[str, int], kinds: Mapping[str, str]
) -> dict[str, np.ndarray] | None:
    """All rows at once, or None if one of them is not well formed."""
    separators = len(head.columns) - 1
    if any(line.count(head.delimiter) != separators or '"' in line for line in lines):
        return None  # a row with too few or too many fields, or quotes: look closely
    order = sorted(place, key=place.__getitem__)
    dtype = [(n, f"U{_WIDTH[kinds[n]]}" if kinds[n] in _WIDTH else "f8") for n in order]
    try:
        rows = np.loadtxt(
            lines, dtype=dtype, delimiter=head.delimiter, comments=None,
            usecols=[place[n] for n in order], ndmin=1,
        )  # fmt: skip
        if len(rows) != len(lines):
            return None
        columns = {name: np.ascontiguousarray(rows[name]) for name in order}
        for name, kind in kinds.items():
            if kind in _WIDTH and np.char.str_len(columns[name]).max() >= _WIDTH[kind]:
                return None  # numpy cuts longer text without a word
            if kind == "clock":
                columns[name] = clock_ns(columns[name])
    except ValueError:
        return None
    return columns


def clock_ns(text: np.ndarray) -> np.ndarray:
    """Wall-clock strings as nanoseconds since 1970 UTC, int64; no zone means UTC.

    Raises ValueError if one cannot be read, or lies outside 1970 to 2261.
    """
    text = np.char.strip(text)
    if (np.char.str_len(text) < 10).any():
        raise ValueError("not a date and time")
    with warnings.catch_warnings():
        # numpy subtracts a zone's offset and warns that it will not keep the zone; just right
        warnings.simplefilter("ignore")
        time = text.astype("M8[us]")
        if np.isnat(time).any():
            raise ValueError("not a time")
        year = time.astype("M8[Y]").astype("i8") + 1970
        if year.min() < 1970 or year.max() > 2261:
            raise ValueError("outside 1970 to 2261")
        return text.astype("M8[ns]").astype("i8")


def number_of(text: str) -> float:
    """A float as numpy's reader takes it: no underscores.  Raises ValueError."""
    if "_" in text:
        raise ValueError("not a number")
    return float(text)


def _careful(
    lines: list[str],
    number: np.ndarray,
    head: Head,
    place: Mapping[str, int],
    kinds: Mapping[str, str],
    faults: Faults,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Row by row: the well-formed ones as columns, the others in `faults`."""
    good: list[int] = []
    values: dict[str, list] = {name: [] for name in place}
    width = len(head.columns)
    for i, line in enumerate(lines):
        at = int(number[i])
        try:
            fields = next(csv.reader([line], delimiter=head.delimiter))
        except csv.Error as error:
            faults.add("malformed", at, f"not a CSV row: {error}")
            continue
        if len(fields) < width:
            faults.add("truncated", at, f"{len(fields)} of {width} fields: the row is cut short")
            continue
        if len(fields) > width:
            faults.add("extra_fields", at, f"{len(fields)} fields under {width} column names")
            continue
        row: dict[str, float | int | str] = {}
        for name, k in place.items():
            text = fields[k].strip()
            try:
                if kinds[name] == "number":
                    row[name] = number_of(text)
                elif kinds[name] == "clock":
                    row[name] = int(clock_ns(np.array([text]))[0])
                else:
                    row[name] = text
            except ValueError:
                shown = repr(text) if text else "an empty field"
                sort = "a number" if kinds[name] == "number" else "a date and time"
                faults.add("malformed", at, f"{head.columns[k]}: {shown} is not {sort}")
                break
        else:
            good.append(i)
            for name, value in row.items():
                values[name].append(value)
    types: dict[str, Any] = {"number": "f8", "clock": "i8", "text": object}
    columns = {name: np.array(values[name], dtype=types[kinds[name]]) for name in place}
    return columns, number[good]


def _coded(column: np.ndarray, known: dict[str, int]) -> np.ndarray:
    """Text as int64 codes; `known` grows with each label met, in order of appearance."""
    if column.dtype != object:
        labels, first, inverse = np.unique(column, return_index=True, return_inverse=True)
        code = np.empty(len(labels), dtype=np.int64)
        for k in np.argsort(first):
            code[k] = known.setdefault(str(labels[k]).strip(), len(known))
        return code[inverse]
    return np.array([known.setdefault(text, len(known)) for text in column], dtype=np.int64)


def whole_labels(codes: np.ndarray, labels: list[str]) -> np.ndarray:
    """Codes as the whole numbers their labels spell, or the codes themselves if one does not.

    An empty label is -1, "none", either way.
    """
    try:
        numbers = [int(label) if label else -1 for label in labels]
        return np.array(numbers, dtype=np.int64)[codes]
    except (ValueError, OverflowError):
        numbers = [k if label else -1 for k, label in enumerate(labels)]
        return np.array(numbers, dtype=np.int64)[codes]


def header_error(path: Path, what: str, fix: str = "") -> ForerunError:
    return TraceError.one(f"{path}:1", what, fix)
