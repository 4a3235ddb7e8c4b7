"""Vidur traces: arrived_at (or arrived_at_s), num_prefill_tokens, num_decode_tokens.

Times are seconds and are kept as they stand.  Vidur's files of lengths only have no times.
Source: github.com/microsoft/vidur (MIT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, head_of, write_text
from forerun.spec.traces._table import Column, read_csv

NAME = "vidur"


def detect(head: Head) -> bool:
    return head.has("num_prefill_tokens", "num_decode_tokens")


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a Vidur trace."""
    faults = Faults(path)
    wanted = {
        "arrival": Column(("arrived_at_s", "arrived_at"), required=False),
        "isl": Column(("num_prefill_tokens",)),
        "osl": Column(("num_decode_tokens",)),
    }
    table = read_csv(head_of(path), wanted, faults)
    columns: dict[str, Any] = {"arrival": None, **table.columns}
    return build(
        faults, format=NAME, n_rows=table.n_rows, lines=table.lines, **columns,
        skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes the form that Vidur replays (`arrived_at`)."""
    columns = (requests.arrival_s, requests.isl, requests.osl)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    body = "".join(f"{t!r},{isl},{osl}\n" for t, isl, osl in rows)
    write_text(path, "arrived_at,num_prefill_tokens,num_decode_tokens\n" + body)
    return lost(requests, NAME)
