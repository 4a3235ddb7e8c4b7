"""JSON lines as records: the whole block at once when it is sound, line by line when it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forerun.errors import TraceError
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, blocks


def read_lines(head: Head, faults: Faults) -> tuple[list[dict[str, Any]], np.ndarray, int]:
    """(records, line of each int64 [N], rows met).  Lines that are no objects go to `faults`."""
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    n_rows = 0
    for first, lines in blocks(head.path):
        rows = [(first + i, line) for i, line in enumerate(lines) if line and not line.isspace()]
        n_rows += len(rows)
        found = _at_once([line for _, line in rows])
        if found is not None:
            records += found
            numbers += [number for number, _ in rows]
            continue
        for number, line in rows:
            try:
                record = json.loads(line)
            except ValueError as error:
                cut = "" if line.rstrip().endswith("}") else ": the row is cut short"
                reason = "truncated" if cut else "malformed"
                what = f"not JSON at column {getattr(error, 'colno', 1)}{cut}"
                faults.add(reason, number, what)
                continue
            if isinstance(record, dict):
                records.append(record)
                numbers.append(number)
            else:
                faults.add("malformed", number, f"a {type(record).__name__}, not an object")
    if not n_rows:
        raise TraceError.one(str(head.path), "the file is empty", "one JSON object a line")
    return records, np.array(numbers, dtype=np.int64), n_rows


def _at_once(lines: list[str]) -> list[dict[str, Any]] | None:
    """One parse of all lines, an order of magnitude faster; None if any line is not an object."""
    try:
        found = json.loads("[" + ",".join(lines) + "]")
    except ValueError:
        return None
    # two broken lines may mend each other when joined, but then there are fewer objects than lines
    sound = len(found) == len(lines) and all(type(record) is dict for record in found)
    return found if sound else None


def number_column(
    records: Sequence[Mapping[str, Any]], name: str, lines: np.ndarray, faults: Faults
) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [N], bool [N] where the field is a number).  The others go to `faults`."""
    values = [record.get(name) for record in records]
    types = set(map(type, values))
    if types <= {int, float}:
        return _floats(values), np.ones(len(values), dtype=bool)
    good = np.array([type(value) in (int, float) for value in values], dtype=bool)
    for i in np.flatnonzero(~good):
        value = values[int(i)]
        here = name in records[int(i)]
        what = f"{name}: {json.dumps(value)[:40]} is not a number" if here else f"no {name!r}"
        faults.add("malformed" if here else "truncated", int(lines[i]), what)
    return _floats([value if ok else 0 for value, ok in zip(values, good, strict=True)]), good


def _floats(values: Sequence[Any]) -> np.ndarray:
    """Whole numbers beyond every float become infinite, and are refused as such later."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        return np.array([v if abs(v) < 1e300 else np.inf for v in values], dtype=np.float64)
