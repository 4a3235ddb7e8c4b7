"""A recorded vLLM run against its simulation from a measured layer profile.

    python -m forerun.calibrate.profile_run PROFILE_DIR RUN_DIR [--device NAME] [--fit-first N] \\
        [--plot PICTURE.svg]

PROFILE_DIR is what `cost.layer_profile` reads (one tensor-parallel degree).  RUN_DIR holds

    requests.csv[.gz]    input_toks, output_toks, arrival_s, queued_s, first_token_s, last_token_s
    meta.json            model, engine_kwargs (tensor_parallel_size, max_num_seqs, ...)
    timeseries.csv[.gz]  t, prompt_throughput, gen_throughput, running, waiting, and kv_cache_pct
                         where it was recorded   (optional)

Nothing is fitted to the run unless --fit-first asks for it: then the engine's own terms (CPU a step
and a sequence, API server) are fitted to the first N requests, and errors are stated on the rest.
Arrivals are the client's, times of tokens the engine's; both start at the first request, when the
engine is idle, so they differ by its front end's millisecond.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forerun import catalog
from forerun.calibrate.bench import Run, fit_runs
from forerun.calibrate.over_time import Series, over_time
from forerun.calibrate.pictures import draw
from forerun.cost import layer_files, layer_profile
from forerun.cost.memory import memory
from forerun.errors import Infeasible, SpecError
from forerun.measure.bench._bench import Bench, of_requests
from forerun.metrics import latency
from forerun.sim import serve
from forerun.sim.log import Log
from forerun.sim.setup import Served
from forerun.spec.columns import Columns, read_columns
from forerun.spec.deployment import Engine, Policy, Pool
from forerun.spec.requests import Requests

ENGINE = ("input_toks", "output_toks", "arrival_s", "queued_s", "first_token_s", "last_token_s")
TICKS, KV = ("t", "prompt_throughput", "gen_throughput", "running", "waiting"), "kv_cache_pct"
HOST = ("host_step_s", "host_seq_s", "host_request_s")
FIGURES = ("mean", "p50", "p90", "p95", "p99")


@dataclass(frozen=True, eq=False)
class Recorded:
    """What happened in a run: float64 or int64 [N] by request, in the order of arrival."""

    folder: Path
    isl: np.ndarray
    osl: np.ndarray
    arrival_s: np.ndarray
    queued_s: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray
    model: str
    engine: Engine
    tp: int
    version: str
    ticks: np.ndarray  # float64 [T, 6]: t, prompt tokens/s, output tokens/s, running, waiting, KV %


@dataclass(frozen=True, eq=False)
class Compared:
    """One simulation beside the run."""

    figures: dict[str, tuple[float, float]]  # name -> (recorded, simulated)
    over_time: tuple[Series, ...]
    most_running: tuple[int, int]  # (recorded, simulated)
    n_steps: int


def read_run(folder: str | Path) -> Recorded:
    """The run in a folder.  Raises SpecError with what is missing."""
    folder = Path(folder)
    table = _table(folder, "requests", ENGINE)
    columns = [table.number(name)[0] for name in ENGINE]
    good = np.isfinite(np.stack(columns)).all(axis=0)
    if not good.any():
        raise SpecError.one(str(folder), "holds no request that finished", "a run that did")
    order = np.flatnonzero(good)
    order = order[np.argsort(columns[2][order], kind="stable")]
    isl, osl, arrival, queued, first, last = (c[order] for c in columns)
    meta = _meta(folder)
    asked = {k: v for k, v in (meta.get("engine_kwargs") or {}).items() if v is not None}
    known = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
    ticks = np.zeros((0, 6))
    if _path(folder, "timeseries") is not None:
        found = _table(folder, "timeseries", TICKS)
        kept = found.number(KV)[0] if KV in found.names else np.zeros(found.n)
        ticks = np.stack([*(found.number(name)[0] for name in TICKS), kept], axis=1)
        ticks = ticks[np.isfinite(ticks).all(axis=1)]
    return Recorded(
        folder, isl.astype(np.int64), osl.astype(np.int64), arrival, queued, first, last,
        model=str(meta.get("model") or asked.get("model") or ""),
        engine=Engine(**{k: asked[k] for k in known if k in asked}),
        tp=int(asked.get("tensor_parallel_size", 1)), version=str(meta.get("vllm_version") or ""),
        ticks=ticks,
    )  # fmt: skip


def prepare(profile_folder: str | Path, run: Recorded, device: str | None = None) -> Served:
    """The engine of the run with costs from the profile, ready to simulate.

    device : a catalog name; without it, the first part of the profile's path that names one.
    Raises SpecError for an unknown model or device, Infeasible where the model does not fit.
    """
    model = catalog.model(run.model)
    found = catalog.device(device) if device else _device_of(Path(profile_folder))
    pool = Pool(device=found.name, tp=run.tp, engine=run.engine)
    held = memory(model, pool, found)
    if held.problems:
        raise Infeasible(*held.problems)
    max_len = min(held.max_len, held.max_context)
    requests = Requests(run.arrival_s, run.isl, run.osl)
    table = layer_profile.cost_table(
        layer_files.read(profile_folder), model, pool, found, max_len=max_len,
        longest=layer_profile.longest_to_mean(requests, run.engine.max_num_seqs),
    )  # fmt: skip
    mean = round(float((run.isl + run.osl).mean()))
    return Served(pool=pool, table=table, n_blocks=held.blocks_for(mean), max_len=max_len)


def simulate(run: Recorded, served: Served) -> Log:
    """The run's requests through the engine."""
    return serve.run(Requests(run.arrival_s, run.isl, run.osl), [served])


def fit_first(run: Recorded, served: Served, n: int) -> Served:
    """The engine with its own terms fitted to the first n requests."""
    bench = as_bench(run)
    model = catalog.model(run.model)
    requests = Requests(run.arrival_s, run.isl, run.osl)
    one = Run(bench, requests, (served,), Policy(name="least_outstanding"), np.arange(bench.n) < n)
    fit = fit_runs([one], [], "", model=model, free=HOST).fit
    terms = {name: getattr(fit, name) for name in HOST}
    pool = served.pool.model_copy(update={"engine": served.pool.engine.model_copy(update=terms)})
    table = replace(served.table, host_step_s=fit.host_step_s, host_seq_s=fit.host_seq_s)
    return replace(served, pool=pool, table=table)


def as_bench(run: Recorded) -> Bench:
    """The run as a load generator would have written it."""
    return of_requests(
        _path(run.folder, "requests") or run.folder, "recorded engine run", isl=run.isl,
        osl=run.osl, ttft_s=run.first_s - run.arrival_s, e2el_s=run.last_s - run.arrival_s,
        start_s=run.arrival_s, model=run.model, engine="vllm", engine_version=run.version,
    )  # fmt: skip


def compare(run: Recorded, log: Log, part: slice = slice(None)) -> Compared:
    """Latencies of some requests (all of them by default), and the whole run over time."""
    rows = log.requests
    gaps = np.where(run.osl > 1, run.osl - 1, np.nan)
    pairs = {
        "TTFT": (run.first_s - run.arrival_s, latency.ttft_s(rows)),
        "TTFT from queue": (run.first_s - run.queued_s, latency.ttft_s(rows)),
        "TPOT": ((run.last_s - run.first_s) / gaps, latency.tpot_s(rows)),
        "E2E": (run.last_s - run.arrival_s, latency.e2el_s(rows)),
    }
    figures = {}
    for name, (theirs, ours) in pairs.items():
        for figure in FIGURES:
            figures[f"{name} {figure}"] = (
                _statistic(theirs[part], figure),
                _statistic(ours[part], figure),
            )
    leaps = log.leaps
    assert leaps is not None
    most = int(run.ticks[:, 3].max(initial=0)), int(leaps["n_running"].max())
    return Compared(figures, tuple(over_time(run.ticks, log)), most, int(leaps["n_steps"].sum()))


def _statistic(values: np.ndarray, figure: str) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean() if figure == "mean" else np.percentile(known, float(figure[1:])))


# -- files ---------------------------------------------------------------------------------------


def _path(folder: Path, name: str) -> Path | None:
    return next((p for end in (".csv", ".csv.gz") if (p := folder / (name + end)).is_file()), None)


def _table(folder: Path, name: str, needs: Sequence[str]) -> Columns:
    path = _path(folder, name)
    if path is None:
        raise SpecError.one(str(folder), f"has no {name}.csv", "the folder of one recorded run")
    table = read_columns(path)
    missing = [column for column in needs if column not in table.names]
    if missing:
        has = ", ".join(table.names)
        raise SpecError.one(str(path), f"has no column {', '.join(missing)}", f"it has {has}")
    return table


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise SpecError.one(str(path), "no such file", "the folder of one recorded run") from None
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise SpecError.one(where, f"is damaged JSON ({error.msg})", "copy it again") from None
    if not isinstance(meta, dict):
        raise SpecError.one(str(path), "is not an object", "the folder of one recorded run")
    return meta


def _device_of(folder: Path) -> Any:
    for part in reversed(folder.resolve().parts):
        try:
            return catalog.device(part)
        except SpecError:
            continue
    raise SpecError.one(str(folder), "names no device of the catalog", "--device rtx-pro-6000")


# -- the command -----------------------------------------------------------------------------------


def report(
    profile: str | Path, folder: str | Path, device: str | None, fitted: int, plot: str | None
) -> str:
    """The comparison in words; `fitted` requests at the start are used for the engine's terms."""
    start = time.perf_counter()
    run = read_run(folder)
    served = prepare(profile, run, device)
    log = simulate(run, served)
    n = len(run.isl)
    if plot:
        if not len(run.ticks):
            raise SpecError.one(str(folder), "has no timeseries.csv to draw", "leave --plot out")
        draw([one.plot for one in over_time(run.ticks, log)], plot)
    lines = [
        f"{run.model} on {served.pool.device}, tp {run.tp}: {n} requests, vLLM {run.version}",
        "costs: measured layer profile; nothing is fitted to this run",
        *_lines(compare(run, log)),
    ]
    if 0 < fitted < n:
        own = fit_first(run, served, fitted)
        e = own.pool.engine
        rest = compare(run, simulate(run, own), slice(fitted, None))
        lines += [
            "",
            f"the engine's own terms fitted to the first {fitted} requests: "
            f"{1e3 * e.host_step_s:.3g} ms a step, {1e6 * e.host_seq_s:.3g} us a sequence, "
            f"{1e3 * e.host_request_s:.3g} ms a request; errors on the other {n - fitted}",
            *_lines(rest, over_time=False),
        ]
    return "\n".join([*lines, "", f"{time.perf_counter() - start:.1f} s in all"])


def _lines(found: Compared, *, over_time: bool = True) -> list[str]:
    out = [f"{'':22}{'recorded':>12}{'simulated':>12}{'error':>9}"]
    for name, (theirs, ours) in found.figures.items():
        error = 100 * (ours / theirs - 1)
        out.append(f"{name:22}{1e3 * theirs:9.1f} ms{1e3 * ours:9.1f} ms{error:+8.1f}%")
    if over_time and found.over_time:
        out += ["", f"{'over time':22}{'mean':>12}{'mean |diff|':>14}"]
        out += [f"{one.name:22}{one.mean:12.1f}{one.difference:14.1f}" for one in found.over_time]
        out.append(
            f"most running: {found.most_running[0]} recorded, {found.most_running[1]} simulated; "
            f"{found.n_steps:,} steps"
        )
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; a mistake in the input is told without a stack trace."""
    import argparse

    from forerun.errors import ForerunError

    parser = argparse.ArgumentParser(prog="python -m forerun.calibrate.profile_run")
    parser.add_argument("profile", help="folder with dense, per_sequence and attention tables")
    parser.add_argument("run", help="folder with requests, meta.json and timeseries")
    parser.add_argument("--device", help="catalog name, where the path does not say it")
    parser.add_argument("--fit-first", type=int, default=0, metavar="N")
    parser.add_argument("--plot", metavar="PICTURE.svg", help="the run over time")
    given = parser.parse_args(arguments)
    try:
        print(report(given.profile, given.run, given.device, given.fit_first, given.plot))
    except ForerunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
