"""Datasets and results around `vllm bench`: lengths, mostly with arrival times.

Read: CSV with input_toks, output_toks and arrival_time_ns or arrival_s (LLMServingSim's);
JSON lines with a prompt's and an output's length; the JSON result of `vllm bench serve
--save-detailed` (input_lens, output_lens, start_times if there).  ShareGPT's raw conversations
hold text, not token counts, and are refused with that reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import TraceError
from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._json import number_column, read_lines
from forerun.spec.traces._source import Head, blocks, head_of, write_text
from forerun.spec.traces._table import Column, read_csv

NAME = "vllm_bench"

_ISL = ("input_toks", "prompt_len", "input_len", "prompt_tokens", "input_tokens", "isl")
_OSL = (
    "output_toks", "output_len", "output_tokens", "completion_tokens", "expected_output_len", "osl",
)  # fmt: skip
_TIME = {"arrival_time_ns": 1e-9, "arrival_s": 1.0, "arrival_time": 1.0, "arrived_at": 1.0}
_TIME |= {"arrival_ms": 1e-3}


def detect(head: Head) -> bool:
    if head.has("input_toks", "output_toks"):
        return True
    if '"input_lens"' in head.text and '"output_lens"' in head.text:
        return True
    record = head.record or {}
    return "conversations" in record or bool(_first(_ISL, record) and _first(_OSL, record))


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a dataset or a detailed result; without times all arrive at 0."""
    head = head_of(path)
    faults = Faults(path)
    if head.columns:
        return _read_csv(head, faults, skip_bad, sort)
    if head.text.lstrip().startswith("[") or '"input_lens"' in head.text:
        rows = _document(head, faults)
    else:
        rows = read_lines(head, faults)
    records, lines, n_rows = rows
    record = next(iter(records), {})
    if "conversations" in record:
        what = "these conversations are text, without token counts"
        fix = "tokenise first: one JSON object a line with prompt_len and output_len"
        raise TraceError.one(str(path), what, fix)
    isl, osl, time = _first(_ISL, record), _first(_OSL, record), _first(tuple(_TIME), record)
    if records and not (isl and osl):
        what = f"records with {', '.join(list(record)[:8])} hold no lengths"
        raise TraceError.one(str(path), what, "prompt_len and output_len")
    good = np.ones(len(records), dtype=bool)
    columns: dict[str, np.ndarray] = {}
    for key in filter(None, (isl, osl, time)):
        rest = [r for r, ok in zip(records, good, strict=True) if ok]
        values, ok = number_column(rest, key, lines[good], faults)
        columns[key] = np.zeros(len(records))
        columns[key][good] = values
        good[good] = ok
    return build(
        faults, format=NAME, n_rows=n_rows, lines=lines[good],
        arrival=_seconds(columns[time][good], time) if time else None,
        isl=columns[isl][good] if isl else np.zeros(0),
        osl=columns[osl][good] if osl else np.zeros(0),
        skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def _read_csv(head: Head, faults: Faults, skip_bad: bool, sort: bool) -> Requests:
    wanted = {"isl": Column(_ISL), "osl": Column(_OSL)}
    time = _first(tuple(_TIME), dict.fromkeys(head.columns))
    if time:
        wanted["arrival"] = Column((time,))
    table = read_csv(head, wanted, faults)
    columns: dict[str, Any] = {"arrival": None, **table.columns}
    if time:
        columns["arrival"] = _seconds(columns["arrival"], time)
    return build(
        faults, format=NAME, n_rows=table.n_rows, lines=table.lines, **columns,
        skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def _seconds(values: np.ndarray, column: str) -> np.ndarray:
    # division, because 1e9 is exact and 1e-9 is not
    return values / round(1 / _TIME[column])


def _document(head: Head, faults: Faults) -> tuple[list[dict[str, Any]], np.ndarray, int]:
    """Records of one JSON document: a list of objects, or a result with lists of lengths."""
    faults.unit = "request "
    try:
        document = json.loads("\n".join(line for _, lines in blocks(head.path) for line in lines))
    except ValueError as error:
        raise TraceError.one(str(head.path), f"not JSON: {error}") from None
    if isinstance(document, dict):
        document = _result(document, head.path)
    for number, record in enumerate(document, 1):
        if not isinstance(record, dict):
            faults.add("malformed", number, f"a {type(record).__name__}, not an object")
    pairs = [(i, record) for i, record in enumerate(document, 1) if isinstance(record, dict)]
    lines = np.array([i for i, _ in pairs], dtype=np.int64)
    return [record for _, record in pairs], lines, len(document)


def _result(result: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """A detailed result as records.  `start_times` is a clock of the client, shifted to 0."""
    keys = {"input_toks": "input_lens", "output_toks": "output_lens"}
    if result.get("start_times"):
        first = min(result["start_times"])
        result = {**result, "start_times": [t - first for t in result["start_times"]]}
        keys["arrival_s"] = "start_times"
    columns = {name: result.get(key) for name, key in keys.items()}
    lengths = {len(c) if isinstance(c, list) else -1 for c in columns.values()}
    if len(lengths) > 1 or -1 in lengths:
        what = " and ".join(keys.values()) + " are not lists of one length"
        raise TraceError.one(str(path), what)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _first(names: tuple[str, ...], record: Any) -> str | None:
    return next((name for name in names if name in record), None)


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes the CSV form, times to a nanosecond."""
    time_ns = np.round(requests.arrival_s * 1e9).astype("i8")
    rows = zip(requests.isl.tolist(), requests.osl.tolist(), time_ns.tolist(), strict=True)
    body = "".join(f"{isl},{osl},{t}\n" for isl, osl, t in rows)
    write_text(path, "input_toks,output_toks,arrival_time_ns\n" + body)
    return lost(requests, NAME)
