"""What a server is told: checked, and as arrays of the core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from forerun.errors import SpecError
from forerun.sim import embeddings as embedding_room
from forerun.sim import policy as policy_room
from forerun.sim.check import (
    check_adapters,
    check_caps,
    check_drafts,
    check_encoders,
    check_fair,
    check_hashes,
    check_lanes,
    check_models,
    check_regions,
    check_reuse,
    check_roles,
    check_tuning,
    check_weights,
    check_widths,
)
from forerun.sim.check_denoise import check_denoisers
from forerun.sim.core import compile as compiler
from forerun.sim.core import rows_request, state
from forerun.sim.core.jit import JIT
from forerun.sim.core.signatures import KINDS
from forerun.sim.log import Tenant
from forerun.sim.setup import Options, Served, new_state, pool_of_replica
from forerun.sim.tiers import Tier, check_tiers
from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Engine, Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

LONGEST_S = 9.2e6  # int64 picoseconds
LEAST_OUTSTANDING = Policy(name="least_outstanding")
ALWAYS = Policy(name="always")
EVERYONE = Policy(name="everyone")


@dataclass(frozen=True)
class Batches:
    """What leaves the core when a log buffer is full; arrays of dtype DONE, LEAP, GAP."""

    requests: np.ndarray
    leaps: np.ndarray
    gaps: np.ndarray


@dataclass
class Settings:
    """What a fleet of replicas is told before its clock runs.

    log : "full" keeps leaps and gaps, "requests" only one row a request.
    sink : receives log rows as they leave the core, instead of their being kept (endless runs).
    leap : False takes every step by itself; the log says the same.
    policies : functions by kind that replace those of the engines or the router.
    """

    pools: Sequence[Served]
    route: Policy | Callable[..., Any] = LEAST_OUTSTANDING
    place: Policy | Callable[..., Any] = LEAST_OUTSTANDING
    fetch: Policy | Callable[..., Any] = ALWAYS
    tiers: Sequence[Tier] = ()  # below the replicas' memory, the nearest first
    gate: Policy | Callable[..., Any] = EVERYONE
    responses: ResponseCache | None = None  # answers kept in front, given again
    embeddings: embedding_room.Cache | None = None  # kept of what has been encoded
    seed: int = 0
    log: str = "full"
    leap: bool = True
    policies: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    concurrency: int | None = None
    think_s: float = 0.0
    sink: Callable[[Batches], None] | None = None
    n_requests: int | None = None  # how many will come, when known: their rows need no sorting
    hash_tokens: int = 0  # of the prefix blocks that requests will name; 0: none do
    client: Client | None = None  # how patient clients are, and what they do then
    go_on: bool = False  # successors of a request that gave no answer are sent all the same
    announce: Callable[[str], None] | None = None
    models: Sequence[str] = ()  # their names, for the log
    way_s: Sequence[Sequence[float]] = ((0.0,),)  # one way between the regions of clients, replicas
    tenants: Sequence[Tenant] = ()  # by number; those that are not told of have weight 1

    def __post_init__(self) -> None:
        self._check()
        self._kept: list[Batches] = []
        self._has_items = False
        self._item_numbers: dict[int, int] = {}
        self._frames: list[np.ndarray] = []
        self._sessions: list[np.ndarray] = []  # of chunks of streams
        self._pace = (0.0, 0)
        self.pool_of_replica = pool_of_replica(self.pools)
        self._state = new_state(
            self.pools,
            Options(
                seed=self.seed,
                keep_leaps=self.log == "full",
                leap=self.leap,
                concurrency=self.concurrency,
                think_s=self.think_s,
                n_requests=self.n_requests,
                every_step=[
                    batch.every_step or (served.draft is not None and speculate.every_step)
                    for served, batch, speculate in zip(
                        self.pools, self._found["batch"], self._found["speculate"], strict=True
                    )
                ],
                priced=[speculate.priced for speculate in self._found["speculate"]],
                every_turn=[turn.every_step for turn in self._found["turn"]],
                fair=[order.again for order in self._found["order"]],
                every_order=[order.again and order.every_step for order in self._found["order"]],
                fair_shared=self._fair["shared"] > 0,
                fair_lift=self._fair["lift"] > 0,
                fresh=any(self._found[kind][0].fresh for kind in ("route", "place")),
                cached=any(self._found[kind][0].cached for kind in ("route", "place")),
                hash_tokens=self.hash_tokens,
                tiers=self.tiers,
                go_on=self.go_on,
                client=self.client,
                gated=self._found["gate"][0].name != EVERYONE.name,
                way_s=self.way_s,
                responses=self.responses,
                embeddings=self.embeddings,
            ),
        )
        self._asked: list[Requests] = []
        self._own_caps = False  # some request has caps of its own
        self._say_if_it_takes_long()
        self._advance_core = compiler.entry("advance")
        chosen = {kind: policy_room.by_pool(self._found[kind]) for kind in KINDS}
        self._put(**{kind: function for kind, (function, _) in chosen.items()})
        self._put(**{f"{kind}_params": params for kind, (_, params) in chosen.items()})
        self.n_injected = 0
        self._latest_ps = 0  # when the last of the requests put in was sent
        self._later: np.ndarray = state.rows(0, rows_request.ARRIVAL)
        self._clock.last_chunk = 1
        self._released = False

    # -- set-up ------------------------------------------------------------------------------

    _looked: ClassVar[bool] = False  # whether a run of this process has seen to the compiling

    def _say_if_it_takes_long(self) -> None:
        """Say so before the core is compiled, which happens once a machine."""
        if not JIT or Settings._looked:
            return
        Settings._looked = True
        if not compiler.is_cached():
            say = self.announce or (lambda text: print(text, file=sys.stderr, flush=True))
            say("compiling the simulator for this machine (once, about half a minute) ...")

    def _check(self) -> None:
        if not self.pools:
            raise SpecError.one("deployment.pools", "there is no pool", "give one with a device")
        check_widths(self.pools)
        self._found = {
            kind: [self._policy(kind, served.pool.engine) for served in self.pools]
            for kind in ("order", "admit", "batch", "preempt", "speculate", "turn", "tune")
        }
        fleet = {"route": self.route, "place": self.place, "fetch": self.fetch, "gate": self.gate}
        for kind, chosen in fleet.items():
            self._found[kind] = [policy_room.find(kind, self.policies.get(kind, chosen))]
        again = [order.again for order in self._found["order"]]
        cached = self.responses is not None
        check_denoisers(self.pools, again, n_tiers=len(self.tiers), cached=cached)
        check_encoders(self.pools, again, cached=cached)
        self._fair = policy_room.fair_knobs(self._found["order"])
        check_weights(self.tenants, any(again))
        check_fair(self.pools, again)
        check_roles(self.pools)
        check_lanes(self.pools, len(self.tiers))
        check_drafts(self.pools)
        check_reuse(self.pools, len(self.tiers))
        check_caps(self.pools, self.hash_tokens)
        check_hashes(self.pools, self.hash_tokens)
        check_tiers(self.pools, self.tiers, self.hash_tokens)
        check_models(self.pools)
        check_regions(self.pools, self.way_s)
        embedding_room.check_cache(self.embeddings, self.pools, len(self.way_s))
        check_adapters(self.pools)
        check_tuning(self.pools)

    def _policy(self, kind: str, engine: Engine) -> policy_room.Found:
        return policy_room.find(kind, self.policies.get(kind, getattr(engine, kind)))

    def _put(self, **fields: Any) -> None:
        self._state = self._state._replace(**fields)

    @property
    def _clock(self) -> Any:
        return self._state.clock[0]
