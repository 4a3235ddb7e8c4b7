"""Azure LLM inference traces 2023 and 2024: TIMESTAMP,ContextTokens,GeneratedTokens.

Timestamps are wall clock (2024: with a zone); arrivals are counted from the first row.
Source: github.com/Azure/AzurePublicDataset (CC-BY-4.0); Patel et al., Splitwise, ISCA 2024.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, head_of, write_text
from forerun.spec.traces._table import Column, read_csv

NAME = "azure_llm"
_START = "2000-01-01T00:00:00"  # of what we write, when the requests know no date of their own


def detect(head: Head) -> bool:
    return head.has("timestamp", "contexttokens", "generatedtokens")


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of an Azure trace; `meta["start"]` is the wall clock of arrival 0."""
    faults = Faults(path)
    wanted = {
        "arrival": Column(("timestamp",), "clock"),
        "isl": Column(("contexttokens",)),
        "osl": Column(("generatedtokens",)),
    }
    table = read_csv(head_of(path), wanted, faults)
    columns: dict[str, Any] = dict(table.columns)
    return build(
        faults, format=NAME, n_rows=table.n_rows, lines=table.lines, **columns,
        skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes the 2023 form: times to 100 ns, from `meta["start"]` or the year 2000."""
    start = np.datetime64(requests.meta.get("start", _START), "ns")
    ticks = np.round(requests.arrival_s * 1e7).astype("i8") * 100
    clock = np.char.replace(np.datetime_as_string(start + ticks.astype("m8[ns]")), "T", " ")
    rows = zip(clock.tolist(), requests.isl.tolist(), requests.osl.tolist(), strict=True)
    body = "".join(f"{time[:-2]},{isl},{osl}\n" for time, isl, osl in rows)
    write_text(path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + body)
    return lost(requests, NAME)
