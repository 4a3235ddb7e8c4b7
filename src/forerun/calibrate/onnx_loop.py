"""The closed loop on this processor: measure operators, predict a model made of them, run it.

    1. operators are measured at shapes of their own (`forerun measure`), and families are fitted
    2. a small transformer is predicted from its graph: node by node, and whole
    3. it is run on onnxruntime with the same number of threads, and compared

    whole = sum over nodes that compute + nodes * dispatch_s + start of a run

What lies between nodes, dispatch_s, comes from a model of other sizes (REFERENCE) that is run and
not predicted.  Both ends of a whole's interval are those of its nodes added up, as if all of them
were off to the same side.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from forerun import units
from forerun.calibrate.data import gathered
from forerun.calibrate.operators import fit_own
from forerun.cost import operators
from forerun.cost.calibration import Calibration, Store, save
from forerun.errors import MissingDependency, SpecError
from forerun.measure.backends import not_installed
from forerun.measure.onnx_model import Transformer, transformer
from forerun.measure.onnx_rows import SIZES, Node, nodes_of, optimised, shape_of
from forerun.measure.onnx_run import Running
from forerun.measure.pace import SLOW, Pace, Steady, pace_of
from forerun.measure.points import Row, as_rows
from forerun.measure.tables import Table
from forerun.measure.timing import NOISY

#: models that are run: batches and lengths of two widths, from launch-bound to compute-bound
MODELS = (
    *(Transformer(b, s) for b, s in ((1, 48), (1, 200), (4, 24), (4, 128), (16, 64), (8, 192))),
    *(Transformer(b, s, 256, 8, 1024, 6, 1) for b, s in ((1, 96), (3, 40), (6, 160), (32, 32))),
)
#: of these, in a hurry
FEW = tuple(MODELS[i] for i in (0, 1, 2, 6, 7, 8))
#: whose run shows what lies between nodes: many of them, little work in each
REFERENCE = Transformer(1, 10, 320, 5, 1280, 10, 2)
ROUNDS = 3  # passes of each model, apart in time; as many again of noisy ones


@dataclass(frozen=True, eq=False)
class Line:
    """One thing predicted and measured."""

    name: str  # "gemm 192 x 384 x 384"
    op: str
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float
    spread: float  # of the measurement

    @property
    def ape(self) -> float:
        """Absolute error as a share of what was measured."""
        return abs(self.predicted_s / self.measured_s - 1)


@dataclass(frozen=True, eq=False)
class Compared:
    """Predicted against measured, shapes that were measured as operators left out of `nodes`."""

    device: str
    runtime: str
    threads: int
    n_points: int
    nodes: tuple[Line, ...]
    models: tuple[Line, ...]
    n_seen: int  # nodes left out because their shape had been measured
    dispatch_s: float  # between two nodes
    faster: float  # the machine's full pace beside the models over that beside the points
    fitted: tuple[Calibration, ...]
    n_noisy: int = 0  # of the points

    #: of `rows`
    HEAD: ClassVar = ("model", "predicted", "measured", "error", "spread")

    def rows(self) -> list[tuple[str, ...]]:
        """The models in words, one a row, as a table of texts."""
        return [
            (line.name, units.show(line.predicted_s, "time"), units.show(line.measured_s, "time"),
             f"{100 * (line.predicted_s / line.measured_s - 1):+.1f} %", f"{line.spread:.0%}")
            for line in self.models
        ]  # fmt: skip

    def by_op(self) -> dict[str, tuple[Line, ...]]:
        """The nodes by kind of operator."""
        kinds = dict.fromkeys(line.op for line in self.nodes)
        return {op: tuple(line for line in self.nodes if line.op == op) for op in kinds}

    def words(self) -> list[str]:
        """What the errors are, in sentences."""
        median, p90 = errors(self.models)
        told = [
            f"{self.device}, {self.runtime}, {_threads(self.threads)}: {len(self.models)} runs of "
            f"models predicted from {self.n_points} measured points of other shapes: median error "
            f"{median:.1%}, p90 {p90:.1%}",
        ]
        if self.nodes:
            median, p90 = errors(self.nodes)
            each = ", ".join(f"{op} {errors(lines)[0]:.1%}" for op, lines in self.by_op().items())
            told.append(
                f"node by node, {len(self.nodes)} shapes not measured before: median error "
                f"{median:.1%}, p90 {p90:.1%} ({each})"
            )
        if self.n_seen:
            told.append(f"{self.n_seen} nodes of shapes that had been measured are left out")
        if self.faster > 1:
            told.append(
                f"this machine was at its full pace with the models only, {self.faster:.2f} times "
                "what it had with the points: what is predicted from them is divided by that"
            )
        if self.n_noisy:
            told.append(
                f"{self.n_noisy} of the {self.n_points} points are noisy, and so is what is "
                "predicted from them: measure again when this machine is quieter"
            )
        loud = sum(line.spread > NOISY for line in self.models)
        if loud:
            told.append(
                f"{loud} runs were noisy (passes more than {NOISY:.0%} apart): others used this "
                "machine, and their errors are of the machine as well"
            )
        return told

    def summary(self) -> dict[str, Any]:
        """Plain values of all of it."""
        return {
            "device": self.device, "runtime": self.runtime, "threads": self.threads,
            "points": self.n_points, "noisy_points": self.n_noisy,
            "dispatch_s": self.dispatch_s, "faster": self.faster,
            "model_errors": errors(self.models),
            "node_errors": errors(self.nodes) if self.nodes else None,
            "models": [asdict(line) for line in self.models],
            "nodes": [asdict(line) for line in self.nodes],
        }  # fmt: skip


def needed() -> None:
    """Raises MissingDependency when what the loop needs is not installed."""
    fix = "pip install 'forerun[onnx,learn]'"
    what = not_installed("onnx", "onnxruntime", "scipy", "lightgbm", fix="")
    if what:
        raise MissingDependency.one("predicting and running a model here", what[:-2], fix)


def fit_table(table: Table, folder: Path) -> tuple[Calibration, ...]:
    """Calibrations of the device and runtime of a table, saved under a folder for a `Store`."""
    date = datetime.date.today().isoformat()
    found = []
    for data in gathered([table]):
        for group in operators.groups(data.x, data.s):
            own, _ = fit_own(data.take(group.at), group, date=date)
            save(own, folder)
            found.append(own)
    return tuple(found)


def of_device(table: Table, device: str, runtime: str) -> Table:
    """The rows of one device and runtime."""
    x = table.rows
    mine = (x.words("device") == device) & (x.words("runtime") == runtime)
    if not mine.any():
        what = f"has no row of {device} with {runtime}"
        raise SpecError.one(table.name, what, "forerun measure --backend onnxruntime_cpu")
    return replace(table, rows=x.take(mine), time_s=table.time_s[mine])


def loop(
    table: Table, *, device: str, runtime: str, threads: int, start_s: float,
    models: Sequence[Transformer] = MODELS, reference: Transformer = REFERENCE,
    rounds: int = ROUNDS, pace: Pace | Steady | None = None, n_noisy: int = 0,
) -> Compared:  # fmt: skip
    """Fits a table, predicts the models, runs them, compares.

    Rows of other devices and runtimes in the table are left alone.
    start_s : a run of a graph of nothing, as the bench measured it; pace : of the table, so that
    models run at the pace that its times are of; n_noisy : of the table's points.
    Raises MissingDependency without onnxruntime, SpecError for a table without such rows.
    """
    needed()
    table = of_device(table, device, runtime)
    graphs = [transformer(m) for m in models]
    parts = [nodes_of(optimised(graph, threads)) for graph in graphs]
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit_table(table, Path(folder))
        store = Store(Path(folder))
        said = [_predict(nodes, device, runtime, store) for nodes in parts]
    pace = pace or Pace()
    before_s = pace.full_s
    host = Running(transformer(reference), reference, threads, pace)
    runs = [Running(g, model, threads, pace) for g, model in zip(graphs, models, strict=True)]
    for n in range(2 * rounds):  # the later ones for those whose passes disagree
        for run in (host, *runs):
            if n < rounds or run.whole().is_noisy:
                run.one_pass()
    dispatch_s, faster = host.dispatch_s(start_s), pace_of(before_s, pace.full_s)
    if faster <= SLOW:
        faster = 1.0
    seen = {shape_of(row) for row in _rows_of(table)}
    nodes, whole, n_seen = [], [], 0
    for model, part, answers, run in zip(models, parts, said, runs, strict=True):
        between = start_s + len(part) * dispatch_s
        here = [a / faster for a in answers]
        total, low, high = (float(np.nansum(a)) + between for a in here)
        timed = run.whole()
        whole.append(Line(_name(model), "model", total, low, high, timed.time_s, timed.spread))
        for key, got in run.nodes(part).items():
            i = next(j for j, n in enumerate(part) if n.row and shape_of(n.row) == key)
            row = part[i].row
            assert row is not None
            if key in seen:
                n_seen += 1
                continue
            t, lo, hi = (float(a[i]) for a in here)
            nodes.append(Line(_words(row), row["op"], t, lo, hi, got.time_s, got.spread))
    return Compared(
        device, runtime, threads, table.rows.n, tuple(nodes), tuple(whole), n_seen, dispatch_s,
        faster, fitted, n_noisy,
    )  # fmt: skip


def _predict(
    nodes: Sequence[Node], device: str, runtime: str, store: Store
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seconds, low, high) of each node, float64 [N]; NaN for views."""
    at = [i for i, node in enumerate(nodes) if node.row]
    rows = [{**node.row, "device": device, "runtime": runtime} for node in nodes if node.row]
    answers = operators.predict(as_rows(rows), store)
    refused = sorted({word for word in answers.refused if word})
    if refused:
        raise SpecError.one("the model", refused[0], "measure that operator first")
    out = tuple(np.full(len(nodes), np.nan) for _ in range(3))
    for column, value in zip(out, (answers.time_s, answers.low_s, answers.high_s), strict=True):
        column[at] = value
    return out  # type: ignore[return-value]


# ------------------------------------------------------------------------------ words


def _rows_of(table: Table) -> Iterator[Row]:
    x = table.rows
    numbers = {n: x.get(n) for n in SIZES}
    for i in range(x.n):
        given = {n: v[i] for n, v in numbers.items() if not np.isnan(v[i])}
        yield {"op": x.words("op")[i], "impl": x.words("impl")[i], **given}


def _words(row: Row) -> str:
    if row["op"] == "gemm":
        return f"gemm {row['m']} x {row['n']} x {row['k']}"
    if row["op"] == "attention_prefill":
        return f"attention {row['batch']} x {row['isl']}, {row['n_heads']} x {row['head_dim']}"
    impl = f" {row['impl']}" if row.get("impl") else ""
    return f"{row['op']}{impl} {row['n_tokens']} x {row['width']}"


def _name(t: Transformer) -> str:
    return f"{t.n_layers} layers of {t.hidden}, {t.batch} x {t.seq} tokens"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def errors(lines: Sequence[Line]) -> tuple[float, float]:
    """(median, 90 % quantile) of the absolute errors, as shares."""
    apes = [line.ape for line in lines]
    return float(np.median(apes)), float(np.quantile(apes, 0.9))
