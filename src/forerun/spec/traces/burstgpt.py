"""BurstGPT: Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type.

Timestamps are seconds from the first day's start.  Requests that failed have 0 response tokens:
they are bad rows, to be skipped and counted.  The later form's Session ID becomes the session, its
Elapsed time what the answer took.
Source: github.com/HPMLL/BurstGPT; Wang et al., BurstGPT, KDD 2025.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, head_of
from forerun.spec.traces._table import Column, read_csv, whole_labels

NAME = "burstgpt"


def detect(head: Head) -> bool:
    return head.has("timestamp", "request tokens", "response tokens")


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a BurstGPT trace; `meta["models"]` counts rows by model."""
    faults = Faults(path)
    wanted = {
        "arrival": Column(("timestamp",)),
        "isl": Column(("request tokens",)),
        "osl": Column(("response tokens",)),
        "model": Column(("model",), "text", required=False),
        "session": Column(("session id",), "text", required=False),
        "took_s": Column(("elapsed time",), required=False),
    }
    table = read_csv(head_of(path), wanted, faults)
    columns: dict[str, Any] = dict(table.columns)
    meta: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if "model" in columns:
        model = columns.pop("model")
        names = table.labels["model"]
        meta["models"] = {name: int((model == k).sum()) for k, name in enumerate(names)}
    if "session" in columns:
        extra["session"] = whole_labels(columns.pop("session"), table.labels["session"])
    if "took_s" in columns:
        extra["took_s"] = columns.pop("took_s")
    return build(
        faults, format=NAME, n_rows=table.n_rows, lines=table.lines, **columns,
        extra=extra, meta=meta, skip_bad=skip_bad, sort=sort,
    )  # fmt: skip
