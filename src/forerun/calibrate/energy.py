"""Fit what a device draws to metered runs: shares of (tdp - idle) for `cost.energy`.

A run's mean power is that of the kernels its cost table says it runs:

    P = idle + sum_op min(limit, active t + memory bytes/bw + matrix flop/peak) / sum_op t

with t, bytes and flop of a steady step: batch sequences decode at isl + osl / 2 tokens of context,
and batch / osl prompts are computed.  Times are predicted, so the shares are right for predicted
times; how long the step really took changes the run's energy but not its power.  Errors are
relative, every model weighs the same, and a model is judged by shares fitted without it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.cost.costs import Costs
from forerun.cost.energy import PowerCurve, full_rate_flop_per_s, power
from forerun.cost.price import costs, merged
from forerun.errors import ForerunError, MissingDependency, SpecError
from forerun.measure.energy import Runs
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.graph import Graph, Op
from forerun.ops.lower import lower
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Engine, Pool
from forerun.spec.dtype import WEIGHT_BYTES
from forerun.spec.model import Model

SHARES = ("active", "memory", "matrix")
#: a run in the middle of its answers seats at most this many
SEATS = 4096
FEWEST = 8  # rows that tell three shares


@dataclass(frozen=True, eq=False)
class Steps:
    """A steady step of every run, by operator: seconds, and seconds at the data sheet's rates.

    Operators that a run does not have are zero.  `answered` marks runs whose model is known.
    """

    time_s: np.ndarray  # float64 [N, ops]
    memory_s: np.ndarray  # bytes / memory rate
    matrix_s: np.ndarray  # flop / matrix rate, at most that of 16 bits
    answered: np.ndarray  # bool [N]

    @property
    def step_s(self) -> np.ndarray:
        """Predicted seconds of the kernels of a step, float64 [N]."""
        return self.time_s.sum(axis=1)

    def share(self, shares: np.ndarray, limit: float) -> np.ndarray:
        """Mean power above idle as a share of (tdp - idle), float64 [N]."""
        active, memory, matrix = shares
        drawn = active * self.time_s + memory * self.memory_s + matrix * self.matrix_s
        return np.minimum(drawn, limit * self.time_s).sum(axis=1) / self.step_s

    def take(self, at: np.ndarray) -> Steps:
        """Some of the runs."""
        return Steps(self.time_s[at], self.memory_s[at], self.matrix_s[at], self.answered[at])


def steps(runs: Runs) -> Steps:
    """What every run's step takes, from the cost tables."""
    found: list[list[tuple[float, float, float]]] = []
    for i in range(runs.n):
        try:
            found.append(list(_step(runs, i)))
        except ForerunError:
            found.append([])
    width = max((len(one) for one in found), default=0)
    table = np.zeros((3, runs.n, max(1, width)))
    for i, one in enumerate(found):
        for j, cell in enumerate(one):
            table[:, i, j] = cell
    time_s, memory_s, matrix_s = table
    answered = np.array([bool(one) for one in found], dtype=bool)
    return Steps(time_s, memory_s, matrix_s, answered)


def fit(runs: Runs, device: str) -> PowerCurve:
    """Shares of one device, with the errors on models left out one at a time.

    Raises SpecError where fewer than eight runs are of models that can be priced.
    """
    part = runs.take(runs.device == device)
    s = steps(part)
    part, s = part.take(s.answered), s.take(s.answered)
    if part.n < FEWEST:
        what = f"{part.n} runs of {device} have a known model; {FEWEST} tell its power"
        raise SpecError.one("energy", what, "more runs, or catalog entries for their models")
    shares, limit = solve(part, s)
    off = np.abs(left_out(part, s) / part.power_w - 1)
    return PowerCurve(
        device=device, limit=round(limit, 3), origin=part.origin, licence=part.licence,
        rows=part.n, date=date.today().isoformat(),
        error={"power_w median": round(float(np.median(off)), 3),
               "power_w p90": round(float(np.quantile(off, 0.9)), 3)},
        note="".join(f"{what} are estimates" for what in part.estimated),
        **{k: round(float(v), 4) for k, v in zip(SHARES, shares, strict=True)},
    )  # fmt: skip


def step_left_out(runs: Runs, s: Steps) -> np.ndarray:
    """Seconds of each run's step, float64 [N]: its kernels, and what the host takes a step and a
    sequence on that version of the engine, fitted to the other models (least absolute error)."""
    from scipy.optimize import nnls

    out = np.full(runs.n, np.nan)
    columns = np.stack([np.ones(runs.n), runs.batch], axis=1) / runs.step_s[:, None]
    lacking = 1 - s.step_s / runs.step_s
    for name in sorted(set(runs.model)):
        mine = runs.model == name
        if mine.all():
            continue
        A, y = columns[~mine], lacking[~mine]
        weight = np.ones(len(y))
        for _ in range(20):
            host, _ = nnls(A * weight[:, None], y * weight)
            weight = 1 / np.sqrt(np.maximum(np.abs(A @ host - y), 0.03))
        out[mine] = s.step_s[mine] + host[0] + host[1] * runs.batch[mine]
    return out


def left_out(runs: Runs, s: Steps) -> np.ndarray:
    """Mean power of each run by shares fitted to the other models, W, float64 [N]."""
    out = np.full(runs.n, np.nan)
    for name in sorted(set(runs.model)):
        mine = runs.model == name
        if mine.all():
            return out
        out[mine] = predicted(
            runs.take(mine), s.take(mine), *solve(runs.take(~mine), s.take(~mine))
        )
    return out


def predicted(runs: Runs, s: Steps, shares: np.ndarray, limit: float) -> np.ndarray:
    """Mean power of one device in each run, W, float64 [N]."""
    idle, span = _levels(runs)
    return idle + span * s.share(shares, limit)


def solve(runs: Runs, s: Steps) -> tuple[np.ndarray, float]:
    """(active, memory, matrix) and the limit.

    The limit is the highest mean share that any run reached; the three are the least sum of
    soft-l1 log errors, none negative.  Raises MissingDependency without scipy.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingDependency.one(
            "energy", "fitting needs scipy", "pip install 'forerun[learn]'"
        ) from None
    idle, span = _levels(runs)
    limit = float(np.clip(((runs.power_w - idle) / span).max(), 0.05, 1.0))
    count = {name: int((runs.model == name).sum()) for name in set(runs.model)}
    weight = np.array([1 / np.sqrt(count[name]) for name in runs.model])
    weight /= weight.mean()  # so that a tenth off still counts by its square

    def off(shares: np.ndarray) -> np.ndarray:
        return weight * np.log((idle + span * s.share(shares, limit)) / runs.power_w)

    start = np.array([0.3, 0.3, 0.5])
    found = least_squares(off, start, bounds=(0, 2), loss="soft_l1", f_scale=0.1)
    return found.x, limit


def _levels(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """(idle, tdp - idle) of each run's device, W."""
    known = {name: power(catalog.device(name)) for name in set(runs.device)}
    idle = np.array([known[name].idle_w for name in runs.device])
    return idle, np.array([known[name].span_w for name in runs.device])


def model_of(name: str) -> Model:
    """The catalog's model of a published checkpoint: makers, month stamps and "Instruct" do not
    change its shape, formats of the weights only where the catalog has that one.  Raises SpecError.
    """
    short = re.sub(r"(?i)^(meta|nvidia)-", "", name.rsplit("/", 1)[-1])
    short = re.sub(r"(?i)-(instruct|thinking|chat|it|hf|bf16)(?=-|$)|-2507", "", short)
    short = re.sub(r"(?i)qwen3-coder-30b", "qwen3-30b", short)
    try:
        return catalog.model(short)
    except SpecError:
        return catalog.model(re.sub(r"(?i)-fp8$", "", short))


@lru_cache(maxsize=64)
def _laid_out(
    name: str, device: str, dtype: str, runtime: str, n: int, ep: int
) -> tuple[Graph, Costs, tuple[Op, ...]]:
    model = model_of(name)
    own = model.quantization.weights if model.quantization else model.dtype
    # fp16 for bf16, or fp8 for fp8 by blocks: the checkpoint's own is meant
    same = not dtype or abs(WEIGHT_BYTES[dtype] / WEIGHT_BYTES[own] - 1) < 0.1
    pool = Pool(
        device=device, tp=n, ep=ep, dtype=None if same else dtype,
        engine=Engine(max_num_seqs=SEATS, runtime=runtime or "vllm"),
    )  # fmt: skip
    runtime = runtime or "vllm"
    graph = lower(model, pool)
    return graph, costs(graph, catalog.device(device), runtime=runtime), tuple(merged(graph))


def _step(runs: Runs, i: int) -> Iterator[tuple[float, float, float]]:
    """(seconds, bytes / memory rate, flop / matrix rate) of each operator of run i's step."""
    key = (runs.model[i], runs.device[i], runs.dtype[i], runs.runtime[i])
    _, m, ops = _laid_out(*key, int(runs.n_devices[i]), int(runs.ep[i]))
    B, isl, osl = float(runs.batch[i]), float(runs.isl[i]), float(runs.osl[i])
    prompts, ctx = B / osl, isl + osl / 2
    bw = m.device.hbm_bytes_per_s
    for op in ops:
        shape, peak = op.shape, full_rate_flop_per_s(m.device, op.dtype)
        if isinstance(shape, Attention | Scan):
            at, n = np.array([ctx]), np.array([[np.ceil(B)]])
            time = m.launch(shape) + float(m.decode(shape, n, at)[0, 0])
            c = shape.decode(np.float64(B), np.float64(ctx))
            yield _cell(op, time, float(c.hbm_bytes) / bw, float(c.flop) / peak)
            time = float(m.prefill(shape, np.array([[isl]]), np.zeros(1))[0, 0])
            c = shape.prefill(np.float64(isl), np.float64(0.0))
            cell = (prompts * x for x in (time, float(c.hbm_bytes) / bw, float(c.flop) / peak))
            yield _cell(op, *cell)
            continue
        units = B + prompts * isl if op.axis == "tokens" else B
        if isinstance(shape, Collective):
            yield _cell(op, float(m.by_tokens(shape, np.array([units]))[0]), 0.0, 0.0)
        elif op.kernels:
            c = shape.counts(np.float64(units))
            time = float(m.by_tokens(shape, np.array([np.ceil(units)]))[0])
            yield _cell(op, time, float(c.hbm_bytes) / bw, float(c.flop) / peak)


def _cell(op: Op, time: float, memory: float, matrix: float) -> tuple[float, float, float]:
    return op.count * time, op.count * memory, op.count * matrix


def save(found: PowerCurve, folder: Path) -> Path:
    """Write the shares as `<device>.yaml`; returns the path."""
    from ruamel.yaml import YAML

    text, writer = io.StringIO(), YAML()
    writer.width = 100
    writer.dump(found.model_dump(mode="json", exclude_defaults=True), text)
    path = folder / f"{found.device}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue())
    return path
