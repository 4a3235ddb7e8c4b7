"""SplitwiseSim traces: request_id,request_type,application_id,arrival_timestamp,batch_size,
prompt_size,token_size.

The application is the tenant.  A row with a batch size other than 1 is several requests at once
and is refused.  Source: github.com/Mutinifni/splitwise-sim (MIT).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forerun.spec.requests import Requests
from forerun.spec.traces._columns import build, lost
from forerun.spec.traces._faults import Faults
from forerun.spec.traces._source import Head, head_of, write_text
from forerun.spec.traces._table import Column, read_csv, whole_labels

NAME = "splitwise"
_HEADER = (
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size"
)
_LLM = 2  # RequestType.COMPUTE is 1, RequestType.GENERATIVE (a prompt and its tokens) is 2


def detect(head: Head) -> bool:
    return head.has("arrival_timestamp", "prompt_size", "token_size")


def read(path: str | Path, *, skip_bad: bool = False, sort: bool = False) -> Requests:
    """Requests of a Splitwise trace."""
    faults = Faults(path)
    wanted = {
        "arrival": Column(("arrival_timestamp",)),
        "isl": Column(("prompt_size",)),
        "osl": Column(("token_size",)),
        "batch": Column(("batch_size",), required=False),
        "tenant": Column(("application_id",), "text", required=False),
    }
    table = read_csv(head_of(path), wanted, faults)
    columns: dict[str, Any] = dict(table.columns)
    extra: dict[str, Any] = {}
    lines = table.lines
    if "tenant" in columns:
        codes = columns.pop("tenant")
        if len(table.labels["tenant"]) > 1:  # absent when all are equal
            columns["tenant"] = whole_labels(codes, table.labels["tenant"])
    if "batch" in columns:
        batch = columns.pop("batch")
        faults.add_where("batch", batch != 1, lines, lambda i: f"batch_size {batch[i]:g}, not 1")
        columns = {name: value[batch == 1] for name, value in columns.items()}
        lines = lines[batch == 1]
    if "tenant" in columns:
        extra["tenant"] = columns.pop("tenant")
    return build(
        faults, format=NAME, n_rows=table.n_rows, lines=lines, **columns,
        extra=extra, skip_bad=skip_bad, sort=sort,
    )  # fmt: skip


def write(requests: Requests, path: str | Path) -> tuple[str, ...]:
    """Writes a Splitwise trace."""
    n = len(requests)
    tenant = requests.tenant if requests.tenant is not None else np.zeros(n, dtype=np.int64)
    columns = (requests.arrival_s, requests.isl, requests.osl, tenant)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    body = "".join(f"{i},{_LLM},{who},{t!r},1,{a},{b}\n" for i, (t, a, b, who) in enumerate(rows))
    write_text(path, f"{_HEADER}\n{body}")
    return lost(requests, NAME, "tenant")
