"""Fleets that route by prefix, or compute prompts and answers apart: output tokens simulated a
second.

DynoSim was run on four shared cores in November 2026 on a workload of its own: 0.47 M output tokens
a second with 8 workers and a KV router, 0.29 M with 4 prefill and 4 decode workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.sim.prepare import prepare
from forerun.sim.serve import Served, run
from forerun.spec.deployment import Deployment, Engine, Policy, Pool
from forerun.spec.requests import Requests
from forerun.spec.traces import read

MODEL, DEVICE = "llama-3.1-8b", "h100-sxm"
PREFIX_AWARE = Policy(name="prefix_aware")


def fleet(*roles: tuple[str, int]) -> list[Served]:
    """Llama-3.1-8B on H100s, one a replica: pools of a role and a number of replicas."""
    engine = Engine(max_num_batched_tokens=8192)
    pools = tuple(
        Pool(name=role, device=DEVICE, role=role, replicas=n, engine=engine)  # type: ignore[arg-type]
        for role, n in roles
    )
    return prepare(catalog.model(MODEL), Deployment(pools=pools))


def with_prefixes(requests: Requests, n_groups: int = 64, block: int = 64) -> Requests:
    """Prompts that name no blocks, in groups that share the first half of the shortest prompt."""
    n_blocks = requests.isl // block + 1
    starts = np.concatenate([[0], np.cumsum(n_blocks)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], n_blocks)
    owner = np.repeat(np.arange(len(requests)), n_blocks)
    common = place < np.repeat(n_blocks, n_blocks) // 2
    hashes = np.where(common, owner % n_groups, n_groups + owner) * 100_000 + place
    return replace(requests, block_hashes=hashes, block_starts=starts, hash_tokens=block)


def tokens_per_s(requests: Requests, pools: list[Served], **settings: object) -> float:
    """Simulated output tokens a second of one core, warm, best of five; a row a request."""
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        log = run(requests, pools, log="requests", **settings)
        best = min(best, time.perf_counter() - start)
    assert (log.requests["status"] == 0).mean() > 0.99
    return float(log.requests["n_out"].sum()) / best


def figures(shared: Path) -> Iterator[tuple[str, float | None, str, str, float | None]]:
    """Rows of `make bench` on two real traces: (name, value, unit, peer, the peer's value)."""
    traces = {
        "vidur": shared / "vidur_run" / "trace-cl34-2000.csv",
        "mooncake": shared / "mooncake_fast25" / "conversation_trace.jsonl.gz",
    }
    for name, path in traces.items():
        requests = read(path) if path.is_file() else None
        if requests is not None and requests.block_hashes is None:
            requests = with_prefixes(requests)
        routed, split = (
            (
                tokens_per_s(requests, fleet(("both", 8)), route=PREFIX_AWARE),
                tokens_per_s(requests, fleet(("prefill", 4), ("decode", 4)), route=PREFIX_AWARE),
            )
            if requests is not None
            else (None, None)
        )
        yield f"kv_router_8_tok_per_s ({name})", routed, "tok/s", "DynoSim", 0.47e6
        yield f"pd_4p4d_tok_per_s ({name})", split, "tok/s", "DynoSim", 0.29e6
