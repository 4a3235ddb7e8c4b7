"""A calibrated twin from one's own benchmark: host terms and factors that a result can tell.

The run is simulated again with the catalogue's costs and the real lengths and times; seven
coefficients are moved until what single requests saw is matched (`least.solve`), each with a prior:

    host_step_s, host_seq_s, host_request_s, host_prompt_token_s     +- HOST_SD, not negative
    tokens, decode, prefill    factors on the parts of a step         x/ twice the table's interval

A coefficient that the result does not tell (its deviation after the fit is still UNTOLD of the
prior's) is put back and the others are fitted again.  Every second request, or every second of
three and more runs, is left out of the fit and gives the error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from forerun import catalog
from forerun.calibrate.least import UNTOLD, Solved, solve
from forerun.cost.engine_fit import HOST, EngineFit, Source
from forerun.cost.engine_terms import FACTORS
from forerun.cost.scale import Scale, scaled
from forerun.errors import Problem, SpecError
from forerun.measure.bench import Bench, rebuild
from forerun.measure.bench._bench import sha256, summary
from forerun.metrics import latency
from forerun.sim import serve
from forerun.sim.prepare import prepare
from forerun.sim.setup import Served
from forerun.spec.deployment import Deployment, Policy
from forerun.spec.model import Model
from forerun.spec.requests import Requests

HOST_SD = {"host_step_s": 3e-3, "host_seq_s": 3e-5, "host_request_s": 2e-2,
           "host_prompt_token_s": 5e-6}  # fmt: skip
LEAST_SD, TEN_PERCENT = 0.2, 1.2816  # of a factor's logarithm; a normal's 90 % quantile
NAMES = EngineFit.coefficients()
#: where a fit sets out from beside nothing: terms that engines have, and kernels a deviation slower
STARTS = ({"host_step_s": 2e-3}, {"host_request_s": 5e-3}, {"tokens": 1.0},
          {"host_step_s": 2e-3, "host_request_s": 5e-3},
          {"host_step_s": 2e-3, "host_request_s": 5e-3, "tokens": 1.0})  # fmt: skip
MOST_REQUESTS = 20_000  # of a run that is simulated a hundred times

#: deviation of a figure's logarithm: what a good model may be off, and noise
SD = {"ttft_s": 0.05, "tpot_s": 0.01, "e2el_s": 0.01, "output_tokens_per_s": 0.01}
TAIL = 3.0  # p90 and beyond may be off by so much more
DRAWN = 4.0  # the same where lengths had to be drawn
CLOCK_S = 1e-3  # of a client's clock
BLIND = 0.1  # least relative error that an interval allows for when nothing could be held out
SHOWN = ("ttft_s_mean", "ttft_s_p50", "ttft_s_p99", "tpot_s_mean", "tpot_s_p99", "e2el_s_mean")


@dataclass(frozen=True, eq=False)
class Run:
    """A benchmark, how it is simulated, and which of its requests the fit may see."""

    bench: Bench
    requests: Requests
    pools: tuple[Served, ...]
    route: Policy
    used: np.ndarray  # bool [N]

    @property
    def factor_sd(self) -> float:
        """Deviation of a factor's logarithm: twice that of the 80 % interval of what steps cost,
        since another machine and version may be off by more."""
        table = self.pools[0].table
        return max(LEAST_SD, float(np.log(table.high / table.low)) / TEN_PERCENT)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The fit with the errors of what it did not see, before and after.

    before, after : |predicted / measured - 1| by figure, on what was held out.
    held_out : what that was, in words; empty where nothing could be held out, and the errors are
        of the fit itself.
    """

    fit: EngineFit
    before: dict[str, float]
    after: dict[str, float]
    held_out: str
    deviations: dict[str, float]  # of each coefficient after the fit, over its prior's
    seconds: float
    n_simulations: int
    notes: tuple[str, ...] = field(default_factory=tuple)


def calibrate(
    benches: Sequence[Bench],
    model: Model,
    deployment: Deployment,
    *,
    seed: int = 0,
    free: Sequence[str] = NAMES,
) -> Calibrated:
    """Host terms and factors of an engine from runs of a load generator against it.

    free : which of NAMES may move.
    Raises SpecError for runs of another model, without a single figure, or a deployment of several
    pools; Infeasible where the model does not fit.
    """
    _check(benches, model, deployment)
    deployment = _uncalibrated(deployment)
    notes: list[str] = [note for bench in benches for note in bench.notes]
    runs = []
    for bench in benches:
        requests, assumed = rebuild(bench, seed=seed)
        notes += assumed
        if len(requests) > MOST_REQUESTS:
            notes.append(f"the first {MOST_REQUESTS:,} of {len(requests):,} requests are used")
            bench = _first(bench, MOST_REQUESTS)
            requests = requests[:MOST_REQUESTS]
        mean = round(float((requests.isl + requests.osl).mean()))
        pools = tuple(prepare(model, deployment, mean_len=mean))
        runs.append(Run(bench, requests, pools, deployment.route, np.ones(bench.n, dtype=bool)))
    runs, held, words = _held_out(runs)
    return fit_runs(runs, held, words, model=model, free=free, notes=notes)


def fit_runs(
    runs: Sequence[Run],
    held: Sequence[Run],
    words: str,
    *,
    model: Model,
    free: Sequence[str] = NAMES,
    notes: Sequence[str] = (),
) -> Calibrated:
    """The fit on `runs`, and its error on `held` (on `runs` themselves when there are none)."""
    start = time.perf_counter()
    movable = np.array([name in free for name in NAMES])
    low = np.array([-_own(runs[0], n) / HOST_SD[n] for n in HOST] + [-np.inf] * len(FACTORS))
    high = np.full(len(NAMES), np.inf)

    def residuals(z: np.ndarray) -> np.ndarray:
        return np.concatenate([_residuals(run, simulated(run, z)) for run in runs])

    starts = [
        np.array([start.get(name, 0.0) / HOST_SD.get(name, 1.0) for name in NAMES])
        for start in STARTS
    ]
    found = solve(residuals, low, high, movable, starts)
    n = found.n_evaluated
    untold = movable & (found.sd > UNTOLD)
    if untold.any() and not untold.all():
        told = movable & ~untold
        found, first = solve(residuals, low, high, told, starts), found
        found = replace(found, sd=np.where(untold, first.sd, found.sd))
        n += found.n_evaluated
    judged = held or runs
    fit = _engine_fit(runs, held, found, [NAMES[k] for k in np.flatnonzero(untold)], model)
    before = _errors(judged, np.zeros(len(NAMES)))
    after = _errors(judged, found.z)
    known = [after[k] for k in ("tpot_s_mean", "e2el_s_mean") if k in after] or [BLIND]
    rms = max(float(np.sqrt(np.mean(np.square(known)))), 0.0 if held else BLIND)
    return Calibrated(
        fit=fit.model_copy(update={"error": after, "rms": rms}), before=before, after=after,
        held_out=words if held else "", seconds=time.perf_counter() - start, n_simulations=n,
        deviations=dict(zip(NAMES, found.sd.tolist(), strict=True)),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def values(run: Run, z: np.ndarray) -> dict[str, float]:
    """Coefficients in their own units from those of the fit."""
    own = {
        name: max(0.0, _own(run, name) + x * HOST_SD[name])
        for name, x in zip(HOST, z, strict=False)
    }
    factors = np.exp(run.factor_sd * z[len(HOST) :])
    return own | dict(zip(FACTORS, factors.tolist(), strict=True))


def simulated(run: Run, z: np.ndarray) -> np.ndarray:
    """The run again, with coefficients: rows of dtype DONE, by request."""
    c = values(run, z)
    pools = []
    for served in run.pools:
        engine = served.pool.engine.model_copy(update={name: c[name] for name in HOST})
        scale = Scale(
            tokens=(c["tokens"],), decode=c["decode"], prefill=c["prefill"],
            host_step_s=c["host_step_s"] - served.pool.engine.host_step_s,
            host_seq_s=c["host_seq_s"] - served.pool.engine.host_seq_s,
        )  # fmt: skip
        pool = served.pool.model_copy(update={"engine": engine})
        pools.append(replace(served, pool=pool, table=scaled(served.table, scale)))
    log = serve.run(
        run.requests, pools, route=run.route, log="requests",
        concurrency=run.requests.meta.get("concurrency"),
    )  # fmt: skip
    return log.requests


# -- what is compared --------------------------------------------------------------------------


def _residuals(run: Run, rows: np.ndarray) -> np.ndarray:
    """log(simulated / measured) over its deviation, for every figure the fit may see."""
    bench = run.bench
    if bench.ttft_s is None:
        mine = _figures(rows, np.ones(len(rows), dtype=bool))
        pairs = [(n, mine[n], v) for n, v in bench.figures.items() if n in mine and v > 0]
        loose = DRAWN if run.requests.meta.get("lengths") == "drawn" else 1.0
        return np.array([np.log(s / m) / (loose * _sd(n, m)) for n, s, m in pairs])
    assert bench.tpot_s is not None and bench.e2el_s is not None  # noqa: PT018
    out = []
    for name, theirs, ours in (
        ("ttft_s", bench.ttft_s, latency.ttft_s(rows)),
        ("tpot_s", bench.tpot_s, latency.tpot_s(rows)),
        ("e2el_s", bench.e2el_s, latency.e2el_s(rows)),
    ):
        known = run.used & np.isfinite(theirs) & np.isfinite(ours) & (ours > 0) & (theirs > 0)
        if not known.any():
            continue
        for cell in _cells(run, known):
            m, s = float(np.median(theirs[cell])), float(np.median(ours[cell]))
            out.append(np.log(s / m) / (2 * _sd(name, m)))
        m, s = float(theirs[known].mean()), float(ours[known].mean())
        out.append(np.log(s / m) / _sd(name, m))
    return np.array(out)


def _cells(run: Run, known: np.ndarray) -> list[np.ndarray]:
    """Requests by thirds of the run and, within each, by thirds of their prompt's length."""
    assert run.bench.isl is not None
    out = []
    for third in np.array_split(np.flatnonzero(known), 3):
        order = third[np.argsort(run.bench.isl[third], kind="stable")]
        out += [part for part in np.array_split(order, 3) if len(part)]
    return out


def _figures(rows: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    mine = rows[chosen]
    out = summary(latency.ttft_s(mine), latency.tpot_s(mine), latency.e2el_s(mine))
    span = (rows["done_ps"].max() - rows["arrival_ps"].min()) * latency.PS
    if span > 0:
        out["output_tokens_per_s"] = float(rows["n_out"].sum()) / span
    return out


def _sd(name: str, measured: float) -> float:
    """Deviation of the logarithm of a figure."""
    base = next((sd for start, sd in SD.items() if name.startswith(start)), 0.05)
    tail = TAIL if name.endswith(("_p90", "_p95", "_p99")) else 1.0
    clock = CLOCK_S / measured if name.startswith("ttft_s") else 0.0
    return float(np.hypot(base * tail, clock))


def _errors(runs: Sequence[Run], z: np.ndarray) -> dict[str, float]:
    """|simulated / measured - 1| by figure on the requests chosen, the mean over runs."""
    out: dict[str, list[float]] = {}
    for run in runs:
        rows = simulated(run, z)
        bench = run.bench
        theirs = bench.figures
        if bench.ttft_s is not None and bench.tpot_s is not None and bench.e2el_s is not None:
            chosen = run.used
            theirs = summary(bench.ttft_s[chosen], bench.tpot_s[chosen], bench.e2el_s[chosen])
        mine = _figures(rows, run.used if bench.ttft_s is not None else np.ones(len(rows), bool))
        for name in SHOWN:
            if theirs.get(name) and name in mine:
                out.setdefault(name, []).append(abs(mine[name] / theirs[name] - 1))
    return {name: float(np.mean(errors)) for name, errors in out.items()}


# -- what goes in and out ----------------------------------------------------------------------


def _held_out(runs: list[Run]) -> tuple[list[Run], list[Run], str]:
    """(runs to fit, runs to judge by, words)."""
    if len(runs) >= 3:
        order = sorted(range(len(runs)), key=lambda i: _load(runs[i].bench))
        out = set(order[1::2])
        held = [run for i, run in enumerate(runs) if i in out]
        words = f"{len(held)} of {len(runs)} runs ({', '.join(r.bench.load for r in held)})"
        return [run for i, run in enumerate(runs) if i not in out], held, words
    if all(run.bench.ttft_s is not None and run.bench.n >= 8 for run in runs):
        odd = [np.arange(run.bench.n) % 2 == 1 for run in runs]
        fitted = [replace(run, used=~o) for run, o in zip(runs, odd, strict=True)]
        held = [replace(run, used=o) for run, o in zip(runs, odd, strict=True)]
        return fitted, held, f"every second request, {sum(int(o.sum()) for o in odd):,} in all"
    return runs, [], ""


def _load(bench: Bench) -> tuple[float, float]:
    return bench.figures.get("output_tokens_per_s", 0.0), float(bench.concurrency or 0)


def _engine_fit(
    runs: Sequence[Run], held: Sequence[Run], found: Solved, untold: Sequence[str], model: Model
) -> EngineFit:
    from forerun.version import __version__

    pool, first = runs[0].pools[0].pool, runs[0].bench
    sources: dict[str, Source] = {}
    for run, used in [*((r, True) for r in runs), *((r, False) for r in held)]:
        path = run.bench.file
        n = int(run.used.sum())
        old = sources.get(str(path))
        sources[str(path)] = Source(
            file=path.name,
            sha256=old.sha256 if old else sha256(path),
            tool=run.bench.tool,
            rows_used=(old.rows_used if old else 0) + (n if used else 0),
            rows_held_out=(old.rows_held_out if old else 0) + (0 if used else n),
        )
    return EngineFit(
        model=model.name, device=pool.device, tp=pool.tp, engine=first.engine,
        engine_version=first.engine_version, date=first.date, forerun_version=__version__,
        untold=tuple(untold), sources=tuple(sources.values()), **values(runs[0], found.z),
    )  # fmt: skip


def _own(run: Run, name: str) -> float:
    """The host term that the deployment's engine has before the fit."""
    return float(getattr(run.pools[0].pool.engine, name))


def _uncalibrated(deployment: Deployment) -> Deployment:
    """The deployment without a calibration: a file stands for itself, on costs that none changed.

    Host terms that its engine gives are where the fit sets out from.
    """
    pools = tuple(
        pool.model_copy(update={"engine": pool.engine.model_copy(update={"calibration": None})})
        for pool in deployment.pools
    )
    return deployment.model_copy(update={"pools": pools})


def _first(bench: Bench, n: int) -> Bench:
    arrays = ("start_s", "isl", "osl", "ttft_s", "e2el_s")
    cut = {k: v[:n] for k in arrays if (v := getattr(bench, k)) is not None}
    return replace(bench, n=n, **cut)


def _check(benches: Sequence[Bench], model: Model, deployment: Deployment) -> None:
    problems: list[Problem] = []
    if not benches:
        problems.append(Problem("--from", "names no run", "the result of a load generator"))
    if len(deployment.pools) != 1:
        what = "a benchmark sees one kind of replica"
        problems.append(Problem("deployment.pools", what, "calibrate each pool by itself"))
    for bench in benches:
        known = _catalog_name(bench.model)
        if known is not None and known != model.name:
            what = f"is of model {bench.model}, and {model.name} was asked for"
            problems.append(Problem(str(bench.file), what, f"--model {known}"))
        if bench.ttft_s is None and not set(bench.figures) & set(SHOWN):
            what = "has no latency in it"
            problems.append(Problem(str(bench.file), what, "a result with TTFT or TPOT"))
    if problems:
        raise SpecError(*problems)


def _catalog_name(text: str) -> str | None:
    """The catalog's model of a name in a file; None where it has none."""
    if not text:
        return None
    try:
        return catalog.model(text).name
    except SpecError:
        return None


__all__ = ["NAMES", "Calibrated", "Run", "calibrate", "fit_runs", "simulated", "values"]
