"""Machine-readable answers: versioned JSON, and a row a request as CSV, JSONL or Parquet.

`schema_version` rises when a key changes its meaning or goes; new keys may come without.  The same
result gives the same bytes: keys keep their order, floats are Python's shortest exact form.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import MissingDependency
from forerun.metrics import goodput, latency
from forerun.metrics.answer import Metrics
from forerun.metrics.figure import Figure
from forerun.metrics.rows import GROUPS, LATENCIES, WORKFLOWS
from forerun.metrics.stats import LEVEL, Quantiles
from forerun.report.files import write, write_text
from forerun.report.result import Result
from forerun.sim.core.rows_log import STATUS
from forerun.sim.log import Log
from forerun.spec.slo import Slo

SCHEMA_VERSION = 1
#: always present, null when unknown; further keys of a result's provenance follow
PROVENANCE = (
    "forerun_version", "spec_hash", "policies", "seed", "host", "price_date", "calibration_ids",
)  # fmt: skip


def to_json(result: Result) -> dict[str, Any]:
    """The whole answer as plain values, SI units in the keys, null for unknown."""
    m = result.metrics
    known = {key: result.provenance.get(key) for key in PROVENANCE}
    if known["seed"] is None and result.log is not None:
        known["seed"] = result.log.seed
    rest = {k: v for k, v in sorted(result.provenance.items()) if k not in known}
    return {
        "schema_version": SCHEMA_VERSION,
        "title": result.title,
        "provenance": _plain(known | rest),
        "setup": _plain(dict(result.setup)),
        "window": {"start_s": m.start_s, "end_s": m.end_s, "duration_s": m.duration_s},
        "n_devices": m.n_devices,
        "slo": _slo(result),
        "counts": _counts(m),
        "latency": {name: _quantiles(getattr(m, name)) for name in LATENCIES},
        **{
            group: {n: _figure(getattr(m, n)) for n in names}
            for group, names in GROUPS.items()
            if group != "responses" or m.by_category
        },
        **_workflows(m),
        **_clients(result.log),
        "by_replica": _by_replica(m),
        **({"by_model": [asdict(row) for row in m.by_model]} if m.by_model else {}),
        **({"by_tenant": [asdict(row) for row in m.by_tenant]} if m.by_tenant else {}),
        **({"by_class": [asdict(row) for row in m.by_class]} if m.by_class else {}),
        **({"by_category": [asdict(row) for row in m.by_category]} if m.by_category else {}),
        **({"power_by_pool": [asdict(row) for row in m.power_by_pool]} if m.power_by_pool else {}),
        "model_band": {
            "level": 0.8,
            "step_time_low_factor": m.model_low,
            "step_time_high_factor": m.model_high,
            "cost_sources": dict(m.cost_sources),
        },
        "sampling_level": LEVEL,
        "notes": list(m.notes),
        "reasons": list(result.reasons),
    }


def json_text(result: Result) -> str:
    """`to_json` as text; NaN and infinity are not JSON and would raise."""
    return json.dumps(to_json(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(result: Result, path: str | Path) -> Path:
    """The answer as a file."""
    return write_text(path, json_text(result))


def _slo(result: Result) -> dict[str, Any]:
    m, slo = result.metrics, result.slo
    return {
        **{term: getattr(slo, term) for term in goodput.TERMS},
        "attainment": slo.attainment,
        "met": m.slo_met,
        "binding": m.binding,
        "failing": [asdict(f) for f in m.failing],
    }


def _quantiles(q: Quantiles | None) -> dict[str, Any] | None:
    if q is None:
        return None
    out = {f.name: getattr(q, f.name) for f in fields(q) if f.name not in ("unit", "intervals")}
    out["sampling"] = {name: list(bounds) for name, bounds in q.intervals.items()}
    return out


def _figure(f: Figure) -> dict[str, Any]:
    return {"value": f.value, "low": f.low, "high": f.high, "unit": f.unit, "source": f.source}


def _counts(m: Metrics) -> dict[str, int]:
    """How requests ended; only in workflows can they be cancelled."""
    out: dict[str, int] = asdict(m.counts)
    if m.workflows is None and not m.counts.cancelled:
        del out["cancelled"]
    return out


def _clients(log: Log | None) -> dict[str, Any]:
    """What clients did, where the case says how patient they are."""
    did = None if log is None else log.meta.get("clients")
    return {} if did is None else {"clients": dict(did)}


def _workflows(m: Metrics) -> dict[str, Any]:
    """Figures of whole workflows, where there are any."""
    found = m.workflows
    if found is None:
        return {}
    out: dict[str, Any] = {"n": found.n, "finished": found.finished}
    out["e2el_s"] = _quantiles(found.e2el_s)
    return {"workflows": out | {name: _figure(getattr(found, name)) for name in WORKFLOWS}}


def _by_replica(m: Metrics) -> dict[str, Any]:
    return {f.name: _plain(getattr(m.by_replica, f.name)) for f in fields(m.by_replica)}


def _plain(value: Any) -> Any:
    """Arrays, numpy numbers, mappings and tuples as what JSON has; anything else as its words."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def request_columns(log: Log, slo: Slo | None = None) -> dict[str, np.ndarray]:
    """One entry a request, SI units, NaN where a request has no such latency: arrays [N]."""
    rows = log.requests
    names = {code: name for name, code in STATUS.items()}
    out = {
        "request": rows["request"],
        "tag": rows["tag"],
        "replica": rows["replica"],
        "status": np.array([names[int(code)] for code in rows["status"]], dtype=object),
        "arrival_s": rows["arrival_ps"] * latency.PS,
        "isl": rows["isl"],
        "osl": rows["osl"],
        "n_out": rows["n_out"],
        "queue_s": latency.queue_s(rows),
        "ttft_s": latency.ttft_s(rows),
        "tpot_s": latency.tpot_s(rows),
        "max_itl_s": latency.max_itl_s(rows),
        "e2el_s": latency.e2el_s(rows),
        "n_preempt": rows["n_preempt"],
        "recomputed_tokens": rows["recomputed"],
    }
    if slo is not None and goodput.bounds_any(slo):
        out["good"] = goodput.good(rows, goodput.goals(slo, log))
    return out


def _records(columns: Mapping[str, np.ndarray]) -> list[list[Any]]:
    """Rows of plain values, None for NaN."""
    lists = []
    for column in columns.values():
        values = column.tolist()
        if column.dtype.kind == "f":
            values = [None if v != v else v for v in values]
        lists.append(values)
    return [list(row) for row in zip(*lists, strict=True)]


def requests_csv(log: Log, path: str | Path, slo: Slo | None = None) -> Path:
    """A row a request; an empty cell is a latency that the request does not have."""
    columns = request_columns(log, slo)

    def save(target: Path) -> None:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(_records(columns))

    return write(path, save)


def requests_jsonl(log: Log, path: str | Path, slo: Slo | None = None) -> Path:
    """A JSON object a line, one a request."""
    columns = request_columns(log, slo)
    names = list(columns)

    def save(target: Path) -> None:
        with target.open("w", encoding="utf-8") as file:
            for row in _records(columns):
                file.write(json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) + "\n")

    return write(path, save)


def requests_parquet(log: Log, path: str | Path, slo: Slo | None = None) -> Path:
    """A row a request, null for a latency it does not have.  Raises MissingDependency."""
    try:
        import polars
    except ImportError:
        raise MissingDependency.one(
            str(path), "Parquet needs polars, which is not installed",
            "pip install 'forerun[tables]', or write .csv",
        ) from None  # fmt: skip
    columns = {
        name: column.tolist() if column.dtype == object else np.ascontiguousarray(column)
        for name, column in request_columns(log, slo).items()
    }
    frame = polars.DataFrame(columns, nan_to_null=True)
    return write(path, lambda target: frame.write_parquet(target))
