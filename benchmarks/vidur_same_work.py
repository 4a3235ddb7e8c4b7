"""The same work as Vidur: its operator tables and traces must give its results.

    python -m benchmarks.vidur_same_work DIR

compares every run in DIR (`trace-NAME.csv`, `config-NAME.json`, `request_metrics-NAME.csv`, where
it is there `batches-NAME.csv`; operator tables under `ops/`) and prints ours, Vidur's and their
ratio.  Exits 0 when everything is inside its band, 1 when not, 2 when DIR cannot be used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import vidur_replay
from forerun.cost.vidur import cost_table
from forerun.cost.vidur_files import Replica, read_config, read_samples
from forerun.errors import ForerunError, SpecError, TraceError
from forerun.sim.core.signatures import WAITING_REQUESTS
from forerun.sim.log import STATUS, Log
from forerun.sim.serve import Served, Server, run
from forerun.spec.deployment import Engine, Policy, Pool
from forerun.spec.requests import Requests
from forerun.spec.traces import vidur as vidur_trace

STEP_BAND, LATENCY_BAND = 0.01, 0.03
TOLD = float("inf")
ANY_LENGTH = 1 << 40  # Vidur rejects no request for its length
PERCENTILES = (50, 90, 99)
METRICS = {  # columns of Vidur's request metrics
    "TTFT": "prefill_e2e_time",
    "TBT": "decode_time_execution_plus_preemption_normalized",
    "E2E": "request_e2e_time",
}


@dataclass(frozen=True)
class Row:
    """One compared figure."""

    run: str
    what: str
    ours: float
    vidur: float
    band: float  # TOLD when it is only told

    @property
    def ratio(self) -> float:
        if self.vidur == 0:
            return 1.0 if abs(self.ours) < 1e-9 else float("inf")
        return self.ours / self.vidur

    @property
    def passes(self) -> bool:
        return abs(self.ratio - 1) <= self.band  # False for nan


@dataclass(frozen=True)
class Run:
    """A run of Vidur's: its files, and the same ready to run here."""

    name: str
    folder: Path
    replica: Replica
    requests: Requests
    served: Served
    settings: dict[str, Any]  # of `Server`: the router, Vidur's own admission


# -- Vidur's schedulers ----------------------------------------------------------------------------


def padded_prompts(max_tokens: int) -> Callable[..., int]:
    """Vidur's `vllm` scheduler: prompts of a step count as if padded to the longest of them.

    params[1] is the longest of this step, kept from call to call: the first admission of a step,
    when no prompt is being computed, starts it anew.
    """

    def admit(request, replica, engine, params):
        longest = request.n_known
        if replica.n_chunks > 0 and params[1] > longest:
            longest = int(params[1])
        if (replica.n_chunks + 1) * longest > params[0]:
            return 0
        params[1] = longest
        return 1

    vars(admit)["PARAMS"] = {"max_tokens": float(max_tokens), "longest": 0.0}
    return admit


def fewest_waiting(request, load, params, memory, rng):
    """Vidur's `lor` router: it counts waiting requests only, not those that run."""
    return load[WAITING_REQUESTS].argmin()


def prepare(folder: Path, name: str) -> Run:
    """Reads one run.  Raises ForerunError with what is wrong with the folder."""
    replica = read_config(folder / f"config-{name}.json")
    requests = vidur_trace.read(folder / f"trace-{name}.csv")
    engine, settings = _engine(replica)
    table = cost_table(
        read_samples(folder / "ops", replica), replica,
        max_tokens=engine.max_num_batched_tokens, max_seqs=engine.max_num_seqs,
    )  # fmt: skip
    pool = Pool(
        name=name, device=replica.device, replicas=replica.n_replicas, tp=replica.tp, engine=engine
    )
    served = Served(pool, table, replica.n_blocks, ANY_LENGTH)
    return Run(name, folder, replica, requests, served, settings | {"route": _route(replica)})


def _engine(replica: Replica) -> tuple[Engine, dict[str, Any]]:
    """Vidur's scheduler in Forerun's words, and what of it needs a function of its own."""
    knobs, scheduler = replica.scheduler_knobs, replica.scheduler
    cap = int(knobs["batch_size_cap"])
    paged = {
        "block_tokens": replica.block_tokens,
        "watermark": float(knobs.get("watermark_blocks_fraction", 0.0)),
        "reserve": "prompt",
        "max_num_seqs": cap,
    }
    if scheduler == "sarathi":
        chunk = int(knobs["chunk_size"])
        batch = Policy(name="decode_first", params={"chunk_tokens": chunk})
        return Engine(batch=batch, max_num_batched_tokens=chunk + cap, **paged), {}
    if scheduler == "vllm":
        budget = int(knobs["max_tokens_in_batch"])

        engine = Engine(
            batch=Policy(name="prefill_first"), max_num_batched_tokens=max(budget, cap), **paged
        )
        return engine, {"policies": {"admit": padded_prompts(budget)}}
    if scheduler in ("orca", "faster_transformer"):
        # room for the longest request is set aside for each, so memory is a cap on their number
        cap = max(1, min(cap, replica.n_blocks // replica.max_blocks_a_request))
        batch = Policy(name="whole" if scheduler == "orca" else "static")
        engine = Engine(
            batch=batch, max_num_seqs=cap, max_num_batched_tokens=cap * replica.max_tokens,
            block_tokens=replica.block_tokens, reserve="full",
        )  # fmt: skip
        return engine, {}
    raise SpecError.one(
        f"replica_scheduler_config.name: {scheduler}", "is not a scheduler that is covered here",
        "compare a run with sarathi, vllm, orca or faster_transformer",
    )  # fmt: skip


def _route(replica: Replica) -> Policy | Callable[..., int]:
    if replica.n_replicas == 1 or replica.router == "round_robin":
        return Policy(name="round_robin")
    if replica.router == "lor":
        return fewest_waiting
    raise SpecError.one(
        f"global_scheduler_config.name: {replica.router}",
        "cannot be compared request by request", "compare a run with round_robin or lor",
    )  # fmt: skip


# -- the comparison --------------------------------------------------------------------------------


def compare(one: Run) -> Iterator[Row]:
    """All figures of a run beside Vidur's."""
    path = one.folder / f"batches-{one.name}.csv"
    if path.is_file() and one.replica.n_replicas == 1:
        yield from _steps(one, path)
    ours = latencies_s(run(one.requests, [one.served], log="requests", **one.settings))
    theirs = _vidur_latencies_s(one.folder / f"request_metrics-{one.name}.csv")
    n_ours, n_theirs = len(ours["E2E"]), len(theirs["E2E"])
    yield Row(one.name, "requests finished", n_ours, n_theirs, 0.0)
    for metric in METRICS:
        for p in PERCENTILES:
            here, there = (float(np.percentile(who[metric], p)) for who in (ours, theirs))
            yield Row(one.name, f"{metric} p{p}", here, there, LATENCY_BAND)


def _steps(one: Run, path: Path) -> Iterator[Row]:
    """Time per iteration given the same batch: |ours / Vidur's - 1| over the iterations."""
    rows = vidur_replay.read(path)
    batches = vidur_replay.replay(one.requests, rows)
    errors = step_errors(one, batches)
    median, p90 = np.percentile(np.abs(errors), (50, 90)) if batches else (np.nan, np.nan)
    yield Row(one.name, "iterations explained", len(batches), len(rows), TOLD)
    yield Row(one.name, "iteration, 1 + median error", 1 + float(median), 1.0, STEP_BAND)
    yield Row(one.name, "iteration, 1 + p90 error", 1 + float(p90), 1.0, TOLD)


def step_errors(one: Run, batches: list[vidur_replay.Batch]) -> np.ndarray:
    """Ours over Vidur's time, less one, of each iteration: float64 [N]."""
    ours = np.array([vidur_replay.price_s(one.served.table, batch) for batch in batches])
    return ours / np.array([batch.time_s for batch in batches]) - 1


def latencies_s(log: Log) -> dict[str, np.ndarray]:
    """Of the requests that finished.  TBT divides by all output tokens, as Vidur does."""
    done = log.requests[log.requests["status"] == STATUS["finished"]]
    ttft = (done["first_token_ps"] - done["arrival_ps"]) * 1e-12
    e2e = (done["done_ps"] - done["arrival_ps"]) * 1e-12
    return {"TTFT": ttft, "TBT": (e2e - ttft) / done["n_out"], "E2E": e2e}


def _vidur_latencies_s(path: Path) -> dict[str, np.ndarray]:
    rows = vidur_replay.dict_rows(path)
    try:
        found = {m: np.array([float(row[column]) for row in rows]) for m, column in METRICS.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError.one(str(path), f"is not Vidur's request metrics: {error}") from error
    if not rows or not all(np.isfinite(values).all() for values in found.values()):
        raise TraceError.one(str(path), "has no rows, or requests that did not finish")
    return found


def event_loop_ms(folder: Path, name: str, *, repeats: int = 7, log: str = "full") -> float:
    """The event loop alone, warm, best of several: the server is built and all requests are put in
    before the clock starts."""
    one = prepare(Path(folder), name)
    best = float("inf")
    for _ in range(repeats + 1):
        server = Server([one.served], log=log, n_requests=len(one.requests), **one.settings)
        server.inject(one.requests)
        start = time.perf_counter()
        server.advance()
        best = min(best, time.perf_counter() - start)
    return 1000 * best


# -- the command -----------------------------------------------------------------------------------


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Runs that are complete in the folder, and sentences about those that are not."""
    if not folder.is_dir():
        raise SpecError.one(str(folder), "is not a folder", "give one laid out like a Vidur run")
    kinds = {"trace": ".csv", "config": ".json", "request_metrics": ".csv"}
    by_kind = {
        kind: {p.name[len(kind) + 1 : -len(end)] for p in folder.glob(f"{kind}-*{end}")}
        for kind, end in kinds.items()
    }
    complete = set.intersection(*by_kind.values())
    left_out = [
        f"{name}: left out, there is no "
        + " and no ".join(f"{k}-{name}{kinds[k]}" for k in kinds if name not in by_kind[k])
        for name in sorted(set.union(*by_kind.values()) - complete)
    ]
    if not complete:
        raise SpecError.one(
            str(folder), "holds no run of Vidur",
            "a run is trace-NAME.csv, config-NAME.json and request_metrics-NAME.csv",
        )  # fmt: skip
    for path in sorted(folder.glob("batches-*.csv")):
        name = path.stem.removeprefix("batches-")
        if name in complete and read_config(folder / f"config-{name}.json").n_replicas > 1:
            left_out.append(f"{path.name}: left out, it does not say which replica ran a batch")
    return sorted(complete), left_out


def show(rows: list[Row]) -> str:
    """The comparison as a table."""
    lines = [f"{'run':<16}{'what':<30}{'ours':>12}{'Vidur':>12}{'ratio':>9}{'band':>8}  result"]
    for row in rows:
        band, result = "", "told"
        if row.band != TOLD:
            band, result = f"{100 * row.band:.0f} %", "pass" if row.passes else "FAIL"
        lines.append(
            f"{row.run:<16}{row.what:<30}{row.ours:>12.5g}{row.vidur:>12.5g}"
            f"{row.ratio:>9.4f}{band:>8}  {result}"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2 if len(arguments) != 1 else 0
    folder = Path(arguments[0])
    try:
        complete, left_out = names(folder)
        rows = [row for name in complete for row in compare(prepare(folder, name))]
    except ForerunError as error:
        print(error, file=sys.stderr)
        return 2
    print(show(rows))
    for sentence in left_out:
        print(sentence)
    judged = [row for row in rows if row.band != TOLD]
    n_passed = sum(row.passes for row in judged)
    print(f"{n_passed} of {len(judged)} inside their bands")
    return 0 if n_passed == len(judged) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
