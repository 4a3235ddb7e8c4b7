"""A trace for ui.perfetto.dev or chrome://tracing: a track a replica, counters, requests.

Chrome's JSON format: `ts` and `dur` in microseconds; "X" slices are leaps, "C" counters, "b"/"e"
pairs requests.  Viewers slow down beyond some hundred thousand events, so the earliest are kept and
a sentence says what was cut.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forerun.report.files import write_text
from forerun.sim.core.rows_log import STATUS
from forerun.sim.leaps import span_ps
from forerun.sim.log import Log

US = 1e-6  # picoseconds to microseconds
MAX_LEAPS = 50_000
MAX_REQUESTS = 20_000


def trace(
    log: Log, *, max_leaps: int = MAX_LEAPS, max_requests: int = MAX_REQUESTS
) -> tuple[dict[str, Any], str]:
    """(trace, sentence about what was left out, empty when nothing was)."""
    events: list[dict[str, Any]] = []
    for i, pool in enumerate(log.pool_of_replica.tolist()):
        name = f"replica {i} ({log.pools[pool]})"
        events.append({"ph": "M", "name": "process_name", "pid": i, "args": {"name": name}})
        events.append(
            {"ph": "M", "name": "thread_name", "pid": i, "tid": 0, "args": {"name": "steps"}}
        )
    cut = []
    if log.leaps is None:
        cut.append("the log kept no steps, so the trace has none")
    else:
        rows = log.leaps[log.leaps["start_ps"].argsort(kind="stable")]
        if len(rows) > max_leaps:
            cut.append(f"the first {max_leaps:,} of {len(rows):,} leaps are in the trace")
            rows = rows[:max_leaps]
        spans = span_ps(rows).tolist()
        shown: dict[tuple[int, str], int] = {}
        for row, span in zip(rows, spans, strict=True):
            events += [_leap(row, span), *_counters(row, shown)]
    requests = log.requests[log.requests["arrival_ps"].argsort(kind="stable")]
    if len(requests) > max_requests:
        cut.append(f"the first {max_requests:,} of {len(requests):,} requests are in the trace")
        requests = requests[:max_requests]
    names = {code: name for name, code in STATUS.items()}
    for row in requests:
        events += _request(row, names[int(row["status"])], log.end_ps)
    sentence = "; ".join(cut)
    other = {"generator": "forerun", "seed": log.seed} | ({"cut": sentence} if sentence else {})
    return {"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}, sentence


def write_trace(log: Log, path: str | Path) -> str:
    """Write the trace; returns what was left out, for the user.  Raises SpecError."""
    found, sentence = trace(log)
    write_text(path, json.dumps(found, separators=(",", ":")))
    return sentence


def _leap(row: Any, span: int) -> dict[str, Any]:
    chunks, decodes, steps = int(row["n_chunks"]), int(row["n_decode"]), int(row["n_steps"])
    name = "decode" if not chunks else "mixed" if decodes else "prefill"
    pid, ts = int(row["replica"]), int(row["start_ps"]) * US
    args: dict[str, float] = {
        key: int(row[key])
        for key in ("n_steps", "n_tokens", "n_seqs", "n_decode", "n_chunks", "chunk", "ctx", "past")
    }
    args |= {"first_step_us": int(row["first_ps"]) * US, "slope_us": int(row["slope_ps"]) * US}
    return {
        "ph": "X", "name": name if steps == 1 else f"{name} x {steps}", "cat": name,
        "pid": pid, "tid": 0, "ts": ts, "dur": span * US, "args": args,
    }  # fmt: skip


def _counters(row: Any, shown: dict[tuple[int, str], int]) -> list[dict[str, Any]]:
    """Counter events for what has changed since the replica's last leap."""
    pid, ts, out = int(row["replica"]), int(row["start_ps"]) * US, []
    for label, field in (
        ("running", "n_running"), ("waiting", "n_waiting"), ("kv blocks", "n_blocks"),
    ):  # fmt: skip
        value = int(row[field])
        if shown.get((pid, label)) != value:
            shown[pid, label] = value
            out.append({"ph": "C", "name": label, "pid": pid, "ts": ts, "args": {label: value}})
    return out


def _request(row: Any, status: str, end_ps: int) -> list[dict[str, Any]]:
    """Async slices: the request, and inside it the wait, the first token and the rest."""
    done = int(row["done_ps"]) if status != "unfinished" and row["done_ps"] >= 0 else end_ps
    moments = [("queue", int(row["arrival_ps"]))]
    if row["scheduled_ps"] >= 0:
        moments.append(("prefill", int(row["scheduled_ps"])))
    if row["first_token_ps"] >= 0:
        moments.append(("decode", int(row["first_token_ps"])))
    number = int(row["request"])
    args = {
        "status": status, "isl": int(row["isl"]), "osl": int(row["osl"]),
        "n_out": int(row["n_out"]), "n_preempt": int(row["n_preempt"]),
    }  # fmt: skip
    base = {"cat": "request", "pid": max(int(row["replica"]), 0), "id": number}
    whole = f"request {number}"
    out = [{"ph": "b", "name": whole, "ts": moments[0][1] * US, "args": args, **base}]
    ends = [start for _, start in moments[1:]] + [done]
    for (name, start), end in zip(moments, ends, strict=True):
        if end > start:
            out.append({"ph": "b", "name": name, "ts": start * US, **base})
            out.append({"ph": "e", "name": name, "ts": end * US, **base})
    out.append({"ph": "e", "name": whole, "ts": done * US, **base})
    return out
