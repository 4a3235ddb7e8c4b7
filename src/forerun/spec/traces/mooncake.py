"""Mooncake traces: JSON lines with timestamp (ms), input_length, output_length, hash_ids.

A hash id stands for one 512-token block of the prompt together with everything before it, so equal
leading ids are a shared prefix.  Source: github.com/kvcache-ai/Mooncake (Apache-2.0); Qin et al.,
Mooncake, FAST 2025.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._json import number_column, read_lines
from forerun.spec.traces._source import Head, head_of, write_text

NAME = "mooncake"
BLOCK_TOKENS = 512


def detect(head: Head) -> bool:
    record = head.record or {}
    return {"timestamp", "input_length", "output_length"} <= set(record)


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a Mooncake trace, with prefix blocks where the file has `hash_ids`."""
    faults = Faults(path)
    records, lines, n_rows = read_lines(head_of(path), faults)
    good = np.ones(len(records), dtype=bool)
    columns = []
    for name in ("timestamp", "input_length", "output_length"):
        # a record counts once, under its first fault
        rest = [record for record, ok in zip(records, good, strict=True) if ok]
        values, ok = number_column(rest, name, lines[good], faults)
        whole = np.zeros(len(records))
        whole[good] = values
        columns.append(whole)
        good[good] = ok
    hashed = any("hash_ids" in record for record in records)
    if hashed:
        _check_hashes(records, columns[1], lines, good, faults)
    kept = [record for record, ok in zip(records, good, strict=True) if ok]
    time_ms, isl, osl = (column[good] for column in columns)
    return build(
        faults, format=NAME, n_rows=n_rows, lines=lines[good],
        arrival=time_ms / 1e3, isl=isl, osl=osl, hashes=_blocks(kept) if hashed else None,
        skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def _check_hashes(
    records: list[dict[str, Any]],
    isl: np.ndarray,
    lines: np.ndarray,
    good: np.ndarray,
    faults: Faults,
) -> None:
    """Marks rows whose hash_ids are no whole numbers, or are more than their prompt has blocks."""
    for i in np.flatnonzero(good):
        ids = records[i].get("hash_ids")
        if type(ids) is not list or not set(map(type, ids)) <= {int}:
            what = "hash_ids is not a list of whole numbers" if ids is not None else "no 'hash_ids'"
            faults.add("malformed" if ids is not None else "truncated", int(lines[i]), what)
        elif len(ids) * BLOCK_TOKENS >= isl[i] + BLOCK_TOKENS and isl[i] >= 1:
            what = f"{len(ids)} hash_ids for {isl[i]:g} input tokens (a block is {BLOCK_TOKENS})"
            faults.add("too_many_hashes", int(lines[i]), what)
        elif ids and not (min(ids) >= -(2**63) and max(ids) < 2**63):
            faults.add("too_large", int(lines[i]), "a hash id does not fit 64 bits")
        else:
            continue
        good[i] = False


def _blocks(records: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, int]:
    count = np.array([len(record["hash_ids"]) for record in records], dtype=np.int64)
    flat = [h for record in records for h in record["hash_ids"]]
    starts = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return np.array(flat, dtype=np.int64), starts, BLOCK_TOKENS


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes a Mooncake trace; times to a nanosecond, prefix blocks only if they are of 512."""
    hashes, starts = requests.block_hashes, requests.block_starts
    if hashes is not None and requests.hash_tokens != BLOCK_TOKENS:
        hashes = None
    out = []
    time_ms = np.round(requests.arrival_s * 1e3, 6).tolist()
    isl, osl = requests.isl.tolist(), requests.osl.tolist()
    for i, t in enumerate(time_ms):
        record: dict[str, Any] = {"timestamp": int(t) if t == int(t) else t}
        record |= {"input_length": isl[i], "output_length": osl[i]}
        if hashes is not None and starts is not None:
            record["hash_ids"] = hashes[starts[i] : starts[i + 1]].tolist()
        out.append(json.dumps(record))
    write_text(path, "\n".join(out) + "\n")
    return lost(requests, NAME, *(("block_hashes",) if hashes is not None else ()))
