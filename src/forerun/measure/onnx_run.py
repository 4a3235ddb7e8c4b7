"""A model run by onnxruntime in passes: whole, and node by node under its profiler.

A node's time is that of the profiler less what the profiler says of a view, which does nothing:
that is the profiler's own time.  It counts whole microseconds.
"""

from __future__ import annotations

import collections
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
from forerun.measure.timing import WARM_UP, Pass, Timed, of_repeats, one_pass, quietest, undisturbed

RUN_S = 0.1  # seconds a pass takes at least


class Running:
    """A model that is run in passes: whole, and under the profiler."""

    def __init__(self, graph: bytes, model: Transformer, threads: int) -> None:
        shape = (model.batch, model.seq, model.hidden)
        self.x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        self.graph, self.threads = graph, threads
        self.plain = session(graph, threads)
        self.wholes: list[Pass] = []
        self.profiles: list[dict[str, list[float]]] = []  # node -> seconds, one a pass

    def one_pass(self) -> None:
        """Repeats without the profiler, then with it."""
        self.wholes.append(one_pass(lambda: self._run(self.plain), pass_s=RUN_S))
        self.profiles.append(self._profile())

    def _run(self, made: Any) -> float:
        start = time.perf_counter()
        made.run(None, {"x": self.x})
        return time.perf_counter() - start

    def _profile(self) -> dict[str, list[float]]:
        """Seconds of each node in the runs that were not disturbed, the profiler's own taken out.

        A new session each time: its file is complete when it is closed.
        """
        share: list[float] = []

        def run() -> float:
            work = time.process_time()
            took = self._run(made)
            share.append((time.process_time() - work) / took)
            return took

        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "run")
            made = session(
                self.graph, self.threads, enable_profiling=True, profile_file_prefix=prefix
            )
            one_pass(run, pass_s=RUN_S)
            events = json.loads(Path(made.end_profiling()).read_text(encoding="utf-8"))
        kept = [False] * WARM_UP + undisturbed(share[WARM_UP:])  # one at least
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
            name: [1e-6 * max(d - own, 0.1) for d, ok in zip(took, kept, strict=True) if ok]
            for name, took in found.items()
        }

    def whole(self) -> Timed:
        """Seconds of a run."""
        return quietest(self.wholes)

    def nodes(self, nodes: Sequence[Node]) -> dict[tuple[str | int, ...], Timed]:
        """Seconds of each distinct shape: nodes of one shape are repeats of it."""
        names: dict[tuple[str | int, ...], list[str]] = collections.defaultdict(list)
        for node in nodes:
            if node.row:
                names[shape_of(node.row)].append(node.name)
        return {
            shape: quietest([
                of_repeats([t for name in mine for t in profile[name]]) for profile in self.profiles
            ])
            for shape, mine in names.items()
        }  # fmt: skip

    def dispatch_s(self, start_s: float) -> float:
        """(whole - start - nodes that compute) / all nodes, seconds; 0 at least."""
        nodes = nodes_of(optimised(self.graph, self.threads))
        took = self.nodes(nodes)
        inside = sum(took[shape_of(node.row)].time_s for node in nodes if node.row)
        return max((self.whole().time_s - start_s - inside) / len(nodes), 0.0)
