"""Run a fixed set of cases and print a digest of each log; the test runs it with and without the
compiler and compares the lines."""

import hashlib
import os
from dataclasses import replace

import fleets
import numpy as np
import seeing
import sharing_devices
from adapting import WAYS, fitted, naming
from denoising import (
    BRANCHES,
    WAYS_OF_NETS,
    asked_for,
    denoising_fleets,
    of_six,
    using,
    with_branches,
)
from families import asking, engine_turn, turning
from flows import woven
from seeing import looking, seeing_fleets
from serving import served, simulate, table, workload
from sharing_devices import devices, lanes
from speculating import kinds
from test_lane_fleet_laws import struck

from forerun.sim.core.jit import JIT
from forerun.sim.embeddings import Cache
from forerun.sim.tiers import Tier
from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Policy
from forerun.spec.traces._questions import with_questions
from forerun.spec.tuning import Tuning
from forerun.spec.workload import Client, Questions

CASES = [
    {"batch": "chunked"},
    {"batch": "decode_first", "order": "shortest_prompt", "watermark": 0.05},
    {
        "batch": "prefill_first",
        "reserve": "prompt",
        "order": "priority",
        "preempt": "lowest_priority",
    },
    {"batch": "whole", "reserve": "full"},
    {"batch": "static", "order": "earliest_deadline"},
]
ROUTES = ["round_robin", "random", "least_outstanding", "power_of_two", "session_sticky"]


def digest(log) -> str:
    digest = hashlib.sha256()
    for rows in (log.requests, log.leaps, log.gaps, log.replicas):
        digest.update(rows.tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    assert (os.environ.get("FORERUN_JIT") != "0") == JIT
    for engine, route in zip(CASES, ROUTES, strict=True):
        for seed, concurrency in ((1, None), (2, 3)):
            pool = served(table(), replicas=2, n_blocks=24, max_num_batched_tokens=64, **engine)
            log = simulate(
                workload(seed, 25),
                pool,
                route=Policy(name=route),
                seed=seed,
                concurrency=concurrency,
            )
            print(engine["batch"], route, concurrency, digest(log))
    chunked = {"name": "decode_first", "params": {"chunk_tokens": 32}}
    pools = [
        served(table(), n_blocks=24, batch="prefill_first"),
        served(table(), n_blocks=24, batch=chunked),
    ]
    tier = Tier("dram", 160e3, 4e6, 1e-4, shared_by="fleet", evict="lfu")
    for kept in ("recompute", "swap"):
        one = fleets.pool(replicas=2, n_blocks=30, preemption=kept, evict="fifo")
        settings = {"tiers": [tier], "fetch": Policy(name="faster"), "hash_tokens": 8}
        print("tiers", kept, digest(simulate(fleets.sharing(3, 40, isl=60), one, **settings)))
    flows = woven(fleets.sharing(4, 40, isl=60, ties=True), 4)
    client = Client(first_token_s=0.06, hedge_s=0.02, retries=2, retry_on=("timeout", "failure"))
    for name, pools in fleets.fleets().items():
        for who in (None, client):
            commands = fleets.troubles(4, pools)
            log = fleets.serve(flows, pools, commands=commands, client=who).log_so_far()
            print("workflows", name, who is None, digest(log), log.meta.get("clients"))
    for k, how in enumerate(({"replicas": 2}, {"n_blocks": 24, "beside": 2.6})):
        log = fleets.serve(flows, lanes(**how), client=(None, client)[k]).log_so_far()
        print("lanes", k, digest(log))
    for name, pools in devices().items():
        log = fleets.serve(flows, pools, commands=struck(4, pools)).log_so_far()
        print("devices", name, digest(log))
    log = fleets.serve(
        looking(4, 40, isl=60), sharing_devices.seeing(lanes(n_blocks=40))
    ).log_so_far()
    print("devices that see", digest(log), log.encodes.tolist())
    print("two pools", digest(simulate(workload(3, 25), pools)))
    for name, speculates in kinds(n_blocks=30).items():
        print("speculation", name, digest(simulate(workload(4, 25), speculates, seed=6)))
    far = ((0.0, 0.02), (0.02, 0.0))
    for route in ("nearest", "cheapest", "greenest"):
        pools = [replace(one, region=g) for g, one in enumerate(fleets.fleets()["unequal"])]
        asked = fleets.sharing(5, 40, isl=60)
        asked = replace(asked, region=np.arange(40) % 2)
        log = fleets.serve(asked, pools, way_s=far, route=Policy(name=route)).log_so_far()
        print("regions", route, digest(log))
    asked = (Questions(topics=3, questions=2, wordings=3), Questions(category="b", topics=9))
    requests = with_questions(fleets.sharing(4, 60), asked, seed=2)
    cache = ResponseCache(quota=5, ttl_s=1.5, categories={"b": {"threshold": 0.9}})
    log = fleets.serve(requests, fleets.fleets()["unequal"], responses=cache).log_so_far()
    print("answers", digest(log), log.answered.asks.tolist(), log.answered.shelves.tolist())
    cache = ResponseCache(max_error=0.3, categories={"b": {"max_error": 0.6, "quota": 9}})
    requests = with_questions(fleets.sharing(4, 160), asked, seed=2)
    log = fleets.serve(requests, fleets.fleets()["unequal"], responses=cache).log_so_far()
    print("learns", digest(log), log.answered.asks.tolist(), log.answered.shelves.tolist())
    for turn in ("oldest_first", "longest_queue", "patience"):
        requests = asking(fleets.sharing(4, 30), 3)
        log = fleets.serve(
            requests, engine_turn(turning(replicas=2, n_resident=2), turn)
        ).log_so_far()
        print("models", turn, digest(log), log.loads.tolist())
    for name, pools in seeing_fleets().items():
        commands = [
            (time_s, verb, i, value)
            for time_s, verb, i, value in fleets.troubles(4, pools)
            if verb != "switch"
        ]
        log = fleets.serve(looking(4, 40, isl=60), pools, commands=commands).log_so_far()
        print("images", name, digest(log), log.encodes.tolist())
        wanted = seeing.naming(looking(4, 40, isl=60), 8)
        for shared in (False, True):
            cache = Cache(12e3, shared=shared, bytes_per_s=20e6 if shared else None)
            log = fleets.serve(wanted, pools, commands=commands, embeddings=cache).log_so_far()
            print("kept", name, digest(log), log.encodes.tolist(), log.meta["embeddings"])
    wanted = naming(fleets.sharing(5, 40, rate=80))
    slack = {"name": "slack", "params": {"step_s": 0.012}}
    how = {"tune": slack, "tuning": Tuning(tokens=2_000, grain=4)}
    for name, way in WAYS.items():
        pools = fitted([fleets.pool(replicas=2, n_blocks=30, **how)], **way)
        log = fleets.serve(wanted, pools, route=Policy(name="near_adapter")).log_so_far()
        print("adapters", name, digest(log), log.fitted.tolist(), log.tuned.tolist())
    several = replace(asking(wanted, 2, 5), tenant=np.arange(len(wanted)) % 3)
    for name, pools in {
        "proposals": kinds(n_blocks=40)["draft"],
        "turns": turning(2, replicas=2),
        "tenants": [fleets.pool(replicas=2, n_blocks=30, order=Policy(name="vtc"))],
        "images": seeing_fleets()["apart"],
    }.items():
        asked = several if name == "turns" else replace(several, model=None)
        if name == "images":
            asked = naming(looking(4, 40, isl=60))
        log = fleets.serve(asked, fitted(pools, **WAYS["beside"]), seed=3).log_so_far()
        print("adapters beside", name, digest(log), log.fitted.tolist(), log.loads.tolist())
    for where, branch in BRANCHES.items():
        pools = with_branches(denoising_fleets()["text and pixels"], branch)
        log = fleets.serve(using(asked_for(4, 30), 4), pools).log_so_far()
        print("images made", where, digest(log), log.encodes.tolist(), log.branched.tolist())
    for way, branch in WAYS_OF_NETS.items():
        pools = with_branches(denoising_fleets()["text and pixels"], branch)
        log = fleets.serve(of_six(asked_for(4, 30), 4), pools).log_so_far()
        print("ControlNets that come", way, digest(log), log.netted.tolist())
    for shared in (0, 1):
        order = Policy(name="vtc", params={"shared": shared})
        requests = fleets.sharing(5, 40, isl=60, ties=True)
        tenants = replace(requests, tenant=requests.priority)
        one = fleets.pool(replicas=2, n_blocks=30, order=order)
        print("tenants", shared, digest(fleets.serve(tenants, [one]).log_so_far()))
