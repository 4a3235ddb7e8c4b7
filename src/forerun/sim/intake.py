"""Requests as rows of arrivals, with what else they bring: caps, prefixes, calls, questions."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.errors import SpecError
from forerun.sim import calls
from forerun.sim import embeddings as embedding_room
from forerun.sim import responses as response_room
from forerun.sim import tables as table_arrays
from forerun.sim.adapters import numbered
from forerun.sim.check import check_caps, check_items
from forerun.sim.core import rows_request, state
from forerun.sim.core.order import NEVER
from forerun.sim.core.rows_fleet import NO_CAP
from forerun.sim.room import gate_memory_for, pending_for, tenants_for
from forerun.sim.settings import LONGEST_S, Settings
from forerun.sim.setup import PS
from forerun.spec.caches import ResponseCache
from forerun.spec.requests import CONTENT, STREAMS, Requests, chained


def _plain_rows(n: int) -> Any:
    """Rows of requests that bring nothing but their lengths."""
    row = state.rows(1, rows_request.ARRIVAL)
    row.session = row.workflow = row.adapter = -1
    row.acceptance = -1.0
    row.deadline_ps = NEVER
    row.most_kept = row.most_read = NO_CAP
    return np.repeat(row, n).view(np.recarray)


class Intake(Settings):
    """What takes requests in."""

    def _arrivals(self, requests: Requests) -> np.recarray:
        n = len(requests)
        rows = _plain_rows(n)
        engine = self.pools[0].pool.engine
        rows.request = np.arange(self.n_injected, self.n_injected + n)
        self.n_injected += n
        if n and requests.arrival_s[-1] > LONGEST_S:
            raise SpecError.one(
                "requests",
                f"they go on for {requests.arrival_s[-1] / 86400:.0f} days; the clock counts "
                f"picoseconds and runs for {LONGEST_S / 86400:.0f}",
                "simulate a part of the trace (n_requests or duration_s)",
            )
        rows.arrival_ps = table_arrays.picoseconds(requests.arrival_s)
        delay = round(engine.host_request_s * PS)
        per_token = round(engine.host_prompt_token_s * PS)
        rows.ready_ps = rows.arrival_ps + delay + per_token * requests.isl
        if self.responses is not None:
            rows.ready_ps += self._asks(self.responses, requests)
        longest = max(int(column.max(initial=0)) for column in (requests.isl, requests.osl))
        if longest > NO_CAP:
            what = f"one has {longest:,} tokens; a request's are counted in 32 bits"
            raise SpecError.one("requests", what, f"at most {NO_CAP:,}")
        rows.isl, rows.osl = requests.isl, requests.osl
        for name in ("priority", "tenant", "session", "acceptance"):
            if getattr(requests, name) is not None:
                rows[name] = getattr(requests, name)
        if n:
            n_tenants = 1 if requests.tenant is None else int(requests.tenant.max()) + 1
            self._put(gate_memory=gate_memory_for(self._state, n_tenants))
            if self._clock.fair or self.tenants:
                weights = np.array([one.weight for one in self.tenants])
                ttft_s = np.array([one.ttft_s for one in self.tenants])
                more = tenants_for(self._state, n_tenants, weights, self._fair, ttft_s)
                self._put(**more)
        self._name_models(rows, requests)
        self._name_regions(rows, requests)
        self._name_adapters(rows, requests)
        self._use_controls(requests)
        if requests.frames is not None:
            self._frames.append(np.asarray(requests.frames))
            if STREAMS in requests.meta and requests.session is not None:
                self._sessions.append(requests.session)
                self._pace = requests.meta[STREAMS]
        if requests.n_items is not None:
            check_items(self.pools, requests)
            rows.n_items, rows.item_units = requests.n_items, requests.item_units
            rows.item_tokens = requests.item_tokens
            if self.embeddings is not None:
                more = embedding_room.named(self._state, self._item_numbers, requests)
                rows.item_at = more.pop("at")
                self._put(**more)
            self._has_items = True
        self._name_prefixes(rows, requests)
        self._cap(rows, requests)
        if requests.deadline_s is not None:
            known = np.isfinite(requests.deadline_s)
            deadline = table_arrays.picoseconds(np.where(known, requests.deadline_s, 0.0))
            rows.deadline_ps = np.where(known, deadline, NEVER)
        if calls.wanted_by(requests) or self.client is not None or len(self._state.calls):
            rows = self._with_calls(rows, requests)
        if self.concurrency is None:
            if requests.deadline_s is not None:
                rows.deadline_ps = calls.later(rows.arrival_ps, rows.deadline_ps)
            if per_token or self.responses is not None:
                rows = rows[np.argsort(rows.ready_ps, kind="stable")]
        return rows

    def _with_calls(self, rows: Any, requests: Requests) -> Any:
        """Note who waits for whom; the rows of those that wait for nobody."""
        more, roots = calls.calls_of(rows, requests, self._state)
        self._put(**more)
        self._clock.has_calls = 1
        if requests.meta.get("on_failure") == "go_on":
            self._clock.go_on = 1
        n = len(more["calls"]) + (self.concurrency or 0)
        n += len(self._state.live) if len(self.way_s) > 1 else 0
        self._put(pending=pending_for(self._state, n))
        if self.concurrency is not None:  # a workflow is released as a whole
            return rows[roots[np.argsort(calls.first_of(rows.workflow)[roots], kind="stable")]]
        return rows[roots]

    def _cap(self, rows: Any, requests: Requests) -> None:
        """Give each row its own caps on KV.  Raises SpecError where they cannot be kept."""
        own = requests.kept_tokens, requests.attended_tokens
        kept, read = (caps is not None and bool(caps.any()) for caps in own)
        if kept or read:
            self._own_caps = True
            check_caps(self.pools, self.hash_tokens, kept=kept, read=read)
        for name, caps in zip(("most_kept", "most_read"), own, strict=True):
            if caps is not None:
                rows[name] = np.where(caps > 0, np.minimum(caps, NO_CAP), NO_CAP)
        if self._clock.denoises:
            denoised = [one.model for one in self.pools if one.denoises]
            asked = np.broadcast_to(rows.model, len(rows))
            rows.most_kept = np.where(np.isin(asked, denoised), rows.isl, rows.most_kept)

    def _asks(self, cache: ResponseCache, requests: Requests) -> np.ndarray:
        """Note what these requests ask of the response cache; how long it takes to look."""
        asks: Any = response_room.asks_of(cache, requests)
        assert requests.wordings is not None
        if not self._asked:
            n_authors = self._state.parked.shape[1]  # models, and adapters
            self._put(**response_room.arrays(cache, requests.wordings, n_authors))
        elif requests.wordings is not self._asked[0].wordings:
            what = "name other texts than those before"
            raise SpecError.one("requests", what, "one table of wordings in a run")
        self._asked.append(requests)
        joined = np.concatenate([self._state.asks, asks]).view(np.recarray)
        self._put(asks=joined)
        return asks.lookup_ps

    def _name_models(self, rows: Any, requests: Requests) -> None:
        """The model that each request asks for.  Raises SpecError for one that nobody serves."""
        if requests.model is None:
            return
        known = self._state.serves.shape[1]
        if len(requests) and not 0 <= requests.model.min() <= requests.model.max() < known:
            what = f"ask for models {requests.model.min()} to {requests.model.max()}"
            raise SpecError.one("requests", what, f"models 0 to {known - 1}, which pools serve")
        rows.model = requests.model

    def _name_regions(self, rows: Any, requests: Requests) -> None:
        """The region that each request comes from.  Raises SpecError for one that is not known."""
        if requests.region is None or not len(requests) or len(self.way_s) == 1:
            return
        low, high = int(requests.region.min()), int(requests.region.max())
        if not 0 <= low <= high < len(self.way_s):
            what = f"come from regions {low} to {high}"
            raise SpecError.one("requests", what, f"regions 0 to {len(self.way_s) - 1}")
        rows.region = requests.region

    def _name_adapters(self, rows: Any, requests: Requests) -> None:
        """The adapter that each request names of its model's; -1 none.  Raises SpecError for
        unknown ones."""
        if requests.adapter is None:
            return
        pools, named = self.pools, requests.adapter
        starts = numbered([one.adapters for one in pools], [one.model for one in pools])
        first, known = starts[rows.model], starts[rows.model + 1] - starts[rows.model]
        if not ((named >= -1) & (named < known)).all():
            k = int(((named < -1) | (named >= known)).argmax())
            what = f"name adapters up to {named.max()}, and there are {known[k]}"
            raise SpecError.one("requests", what, f"deployment.adapters.n: {known[k] + 1} or more")
        rows.adapter = np.where(named < 0, -1, first + named)

    def _use_controls(self, requests: Requests) -> None:
        """The ControlNets that each request uses.  Raises SpecError for ones that nobody has."""
        known = [one.branch.n for one in self.pools if one.branch is not None]
        used = requests.controls
        if used is not None and used.any():
            most = int(used.max()).bit_length()
            serving = [one for one in self.pools if one.denoises and one.pool.replicas]
            if any(one.branch is None or one.branch.n < most for one in serving) or not serving:
                what = f"use ControlNets up to number {most - 1}, and not every pool has them"
                fix = "controlnets: {where: beside} of each pool that denoises"
                raise SpecError.one("requests", what, fix)
            slots = min((o.branch.slots for o in serving if o.branch and o.branch.slots), default=0)
            many = max(int(bits).bit_count() for bits in np.unique(used))
            if 0 < slots < many:
                what = f"use {many} ControlNets at once, and replicas have slots for {slots}"
                fix = f"slots: {many} of each pool's controlnets"
                raise SpecError.one("requests", what, fix)
        if known:
            more = np.zeros(len(requests), dtype=np.int64) if used is None else used
            self._put(controls=np.concatenate([self._state.controls, more]))

    def _name_prefixes(self, rows: Any, requests: Requests) -> None:
        """Give each row its whole prefix blocks; blocks of requests that ended are forgotten."""
        if self.hash_tokens == 0 or requests.block_hashes is None:
            return
        if requests.hash_tokens != self.hash_tokens:
            what = f"have prefix blocks of {requests.hash_tokens} tokens, not {self.hash_tokens}"
            raise SpecError.one("requests", what, "one size of prefix blocks in a run")
        assert requests.block_starts is not None
        old = self._state.hashes
        named = np.diff(requests.block_starts)
        rows.hash_at = len(old) + requests.block_starts[:-1]
        computed = requests.isl + (requests.osl - 1 if requests.answers_named else 0)
        rows.n_hash = np.minimum(named, computed // self.hash_tokens)
        names = requests.block_hashes.astype(np.int64)
        if requests.meta.get("blocks") == CONTENT and not self._anywhere:
            names = chained(names, requests.block_starts)
        if requests.model is not None:  # one prefix of two models is two blocks of KV
            names = names ^ (np.repeat(requests.model, named) << 50)
        if requests.adapter is not None:  # so it is with adapters (vLLM hashes their name too)
            other = np.where(requests.adapter < 0, 0, (requests.adapter + 1) * 0x9E3779B97F4A7C1)
            names = names ^ np.repeat(other, named)
        self._put(hashes=np.concatenate([old, names]))

    @property
    def _anywhere(self) -> bool:
        return any(served.pool.engine.reuse == "anywhere" for served in self.pools)
