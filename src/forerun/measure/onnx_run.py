"""A model run by onnxruntime in passes: whole, and node by node under its profiler.

A node's time is that of the profiler less what the profiler says of a view, which does nothing:
that is the profiler's own time.  It counts whole microseconds.
"""

from __future__ import annotations

import collections
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forerun.measure.backends.onnxruntime_cpu import session
from forerun.measure.onnx_model import Transformer
from forerun.measure.onnx_rows import VIEWS, Node, nodes_of, optimised, shape_of
from forerun.measure.pace import Pace, Steady
from forerun.measure.timing import Pass, Timed, of_repeats, one_pass, quietest, repeats

RUN_S = 0.1  # seconds a pass takes at least


class Running:
    """A model that is run in passes: whole, and under the profiler."""

    def __init__(self, graph: bytes, model: Transformer, threads: int, pace: Pace | Steady) -> None:
        shape = (model.batch, model.seq, model.hidden)
        self.x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        self.graph, self.threads, self.pace = graph, threads, pace
        self.plain = session(graph, threads)
        self.wholes: list[Pass] = []
        #: of each pass, node -> seconds, and the probe
        self.profiles: list[tuple[dict[str, list[float]], float]] = []

    def one_pass(self) -> None:
        """Repeats without the profiler, then with it."""
        self.wholes.append(one_pass(lambda: self._run(self.plain), pass_s=RUN_S, pace=self.pace))
        self.profiles.append(self._profile())

    def _run(self, made: Any) -> float:
        start = time.perf_counter()
        made.run(None, {"x": self.x})
        return time.perf_counter() - start

    def _profile(self) -> tuple[dict[str, list[float]], float]:
        """Seconds of each node in the runs that were not disturbed, the profiler's own taken out;
        and the probe of these runs.

        A new session each time: its file is complete when it is closed.
        """
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "run")
            made = session(
                self.graph, self.threads, enable_profiling=True, profile_file_prefix=prefix
            )
            done = repeats(lambda: self._run(made), pass_s=RUN_S, pace=self.pace)
            events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
        kept = [False] * done.warm_up + done.kept
        views: list[float] = []
        found: dict[str, list[float]] = collections.defaultdict(list)
        for event in events:
            if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
                continue
            if event["args"]["op_name"] in VIEWS:
                views.append(event["dur"])
            found[event["name"].removesuffix("_kernel_time")].append(event["dur"])
        own = statistics.median(views) if views else 0.0
        return {
            name: [1e-6 * max(d - own, 0.1) for d in itertools.compress(took, kept)]
            for name, took in found.items()
        }, done.probe_s

    def whole(self) -> Timed:
        """Seconds of a run."""
        return quietest(self.wholes, self.pace.full_s)

    def nodes(self, nodes: Sequence[Node]) -> dict[tuple[str | int, ...], Timed]:
        """Seconds of each distinct shape: nodes of one shape are repeats of it."""
        names: dict[tuple[str | int, ...], list[str]] = collections.defaultdict(list)
        for node in nodes:
            if node.row:
                names[shape_of(node.row)].append(node.name)
        return {
            shape: quietest([
                of_repeats([t for name in mine for t in profile[name]], probe_s=probe_s)
                for profile, probe_s in self.profiles
            ], self.pace.full_s)
            for shape, mine in names.items()
        }  # fmt: skip

    def dispatch_s(self, start_s: float) -> float:
        """(whole - start - nodes that compute) / all nodes, seconds; 0 at least."""
        nodes = nodes_of(optimised(self.graph, self.threads))
        took = self.nodes(nodes)
        inside = sum(took[shape_of(node.row)].time_s for node in nodes if node.row)
        return max((self.whole().time_s - start_s - inside) / len(nodes), 0.0)
