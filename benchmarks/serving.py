"""The event loop: how many requests a second one core simulates, and what a request takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forerun import catalog
from forerun.metrics.sketch import SketchLog
from forerun.sim.cells import run_cells
from forerun.sim.prepare import prepare
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Deployment, Engine, Pool
from forerun.spec.requests import Requests
from forerun.spec.workload import Lengths, Traffic

MODEL, DEVICE = "llama-3.1-8b", "h100-sxm"
ISL, OSL = 300, 100  # mean tokens, log-normal with cv 1
LOAD = 20.0  # requests a second and replica: about half of what one carries


def pools(replicas: int) -> list[Served]:
    """Llama-3.1-8B on H100s, one a replica, priced by the catalog."""
    engine = Engine(max_num_batched_tokens=2048)
    pool = Pool(device=DEVICE, replicas=replicas, engine=engine)
    return prepare(catalog.model(MODEL), Deployment(pools=(pool,)))


def workload(n: int, rate_per_s: float) -> Requests:
    """Poisson arrivals and log-normal lengths."""
    draw = np.random.default_rng(0)
    spread = np.sqrt(np.log(2))  # cv 1

    def lengths(mean: float) -> np.ndarray:
        drawn = draw.lognormal(np.log(mean) - spread**2 / 2, spread, n)
        return np.clip(drawn, 1, 8000).astype(np.int64)

    arrival = np.cumsum(draw.exponential(1 / rate_per_s, n))
    return Requests(arrival, lengths(ISL), lengths(OSL))


def requests_per_s(replicas: int, n: int = 1_000_000) -> float:
    """Simulated requests a second, warm, best of three; one row a request is logged."""
    fleet, requests = pools(replicas), workload(n, LOAD * replicas)
    run(workload(1000, LOAD), fleet, log="requests")  # compiled and loaded
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        log = run(requests, fleet, log="requests")
        best = min(best, time.perf_counter() - start)
        assert len(log.requests) == n
    return n / best


def afresh(expression: str) -> Any:
    """The value of an expression of this module in a process of its own, whose memory is new."""
    code = f"import json; from benchmarks.serving import *; print(json.dumps({expression}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def peak_bytes() -> float:
    """The most memory this process has held.

    From /proc where there is one: ru_maxrss of a child begins at its parent's on Linux.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def grown(n: int) -> float:
    """Bytes a request by which this process grows when n are made and simulated."""
    fleet = pools(1)
    run(workload(1000, LOAD), fleet, log="requests")
    before = peak_bytes()
    requests = workload(n, LOAD)
    run(requests, fleet, log="requests")
    return (peak_bytes() - before) / n


def cells_s(n: int, n_cells: int, replicas: int, workers: int | None = None) -> dict[str, float]:
    """A run in cells of `replicas` each, arrivals streamed, latencies sketched: seconds, peak MiB
    of all processes together, and what came out."""
    traffic = Traffic(
        arrivals="poisson",
        rate_per_s=LOAD * replicas * n_cells,
        n_requests=n,
        isl=Lengths(kind="lognormal", mean=ISL, cv=1.0, high=8000),
        osl=Lengths(kind="lognormal", mean=OSL, cv=1.0, high=8000),
    )
    workers = workers or os.cpu_count() or 1
    run(workload(1000, LOAD), pools(1), log="requests")  # compile before the workers do
    start = time.perf_counter()
    total = run_cells(
        traffic, pools(replicas), n_cells=n_cells, collect=SketchLog, workers=workers,
    )  # fmt: skip
    elapsed = time.perf_counter() - start
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert total.counters["finished"] + total.counters["rejected"] == n
    return {
        "seconds": elapsed,
        "peak_mib": peak_bytes() / 2**20
        + workers * child / 1024,  # as if all workers peaked at once
        "finished": total.counters["finished"],
        "output_tokens": total.counters["output_tokens"],
        **{f"ttft_{q}_s": total.ttft_s.quantile(p) for q, p in (("p50", 0.5), ("p99", 0.99))},
        **{f"tpot_{q}_s": total.tpot_s.quantile(p) for q, p in (("p50", 0.5), ("p99", 0.99))},
    }


def figures(*, billion: bool) -> Iterator[tuple[str, float, str, str, float | None]]:
    """(name, value, unit, peer, the peer's value) of each figure."""
    yield "one_replica_req_per_s", requests_per_s(1), "req/s", "", None
    yield "thousand_replicas_req_per_s", requests_per_s(1000), "req/s", "", None
    yield "bytes_per_request", afresh("grown(1_000_000)"), "B", "", None
    twenty = afresh("cells_s(20_000_000, 20, 10)")
    yield "twenty_million_requests_s", twenty["seconds"], "s", "", None
    yield "twenty_million_requests_peak_mib", twenty["peak_mib"], "MiB", "", None
    if billion:
        whole = afresh("cells_s(1_000_000_000, 100, 100)")
        print(json.dumps(whole, indent=1), file=sys.stderr)
        yield "billion_requests_s", whole["seconds"], "s", "", None
        yield "billion_requests_peak_mib", whole["peak_mib"], "MiB", "", None
