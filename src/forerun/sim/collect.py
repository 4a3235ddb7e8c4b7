"""What a `State` says at a moment: rows of requests that are under way, a policy's mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from forerun.errors import PolicyError
from forerun.sim.core import rows_fleet, rows_log, rows_request, state
from forerun.sim.core.batch import BAD_BATCH
from forerun.sim.core.fetch import BAD_FETCH
from forerun.sim.core.front import BAD_PLACE, BAD_ROUTE
from forerun.sim.core.leap import STUCK
from forerun.sim.core.speculate import BAD_DRAFT
from forerun.sim.core.turns import BAD_TURN
from forerun.sim.policy import Found
from forerun.sim.tables import PS

if TYPE_CHECKING:
    from forerun.sim.setup import Served
    from forerun.sim.tiers import Tier

PICKED = {"pages": "by scores of pages that every step reads", "recent": "are the last ones"}


def live_slots(now: state.State) -> np.ndarray:
    """Slots of the requests that have been routed and have not ended."""
    if now.clock["n_live"][0] == 0:
        return np.zeros(0, dtype=np.intp)
    free = np.zeros(len(now.live), dtype=bool)
    following = np.asarray(now.live["next"]).tolist()
    at = int(now.clock["free"][0])
    while at >= 0:
        free[at] = True
        at = following[at]
    ended = np.isin(now.live["phase"], (rows_request.WAITING, rows_request.HELD)) & (
        now.live["aborted"] == 1
    )
    return np.flatnonzero(~free & ~ended)


def unfinished(now: state.State) -> np.ndarray:
    """Rows of dtype DONE for the requests in the system, as of each replica's last event.

    One row a request, however many copies of it there are; one that its client is about to send
    again is under way too.
    """
    slots = live_slots(now)
    clients = bool(now.clock["has_clients"][0])
    if clients:
        slots = slots[now.calls["slot"][now.live["request"][slots]] == slots]
    live = np.asarray(now.live)[slots]
    waits = _to_be_sent_again(now) if clients else np.asarray(now.pending)[:0]
    rows = np.zeros(len(live) + len(waits), dtype=rows_log.DONE)
    here, again = rows[: len(live)], rows[len(live) :]
    same = ("request", "arrival_ps", "isl", "osl", "model")
    for name in same:
        here[name], again[name] = live[name], waits[name]
    for name in (
        "scheduled_ps",
        "first_token_ps",
        "replica",
        "n_preempt",
        "recomputed",
        "max_itl_ps",
        "cached",
        "prefill_replica",
        "n_retries",
        "away_ps",
        "n_drafted",
        "n_extra",
    ):
        here[name] = live[name]
    here["n_out"] = live["n_out"] + _decoded(now, live)
    here["tag"], again["tag"] = live["tenant"], waits["tenant"]
    for name in ("scheduled_ps", "first_token_ps", "replica", "prefill_replica"):
        again[name] = -1
    if clients:
        rows["n_retries"] += (now.calls["attempt"][rows["request"]] - 1).astype(np.int32)
    rows["done_ps"] = -1
    rows["status"] = rows_log.STATUS["unfinished"]
    return rows


def _to_be_sent_again(now: state.State) -> np.ndarray:
    """Rows of ARRIVAL of requests that were lost or refused and whose clients wait to retry."""
    pending = np.asarray(now.pending)[: int(now.clock["n_pending"][0])]
    calls = np.asarray(now.calls)[pending["request"]]
    return pending[(pending["on_way"] == 0) & (calls["attempt"] > 0) & (calls["lost"] == 0)]


def _decoded(now: state.State, live: np.ndarray) -> np.ndarray:
    """Tokens that requests have decoded since they joined the decoders of their replicas."""
    decodes = live["phase"] == rows_request.DECODING
    steps: np.ndarray = now.replicas["decoded"][live["replica"]] - live["joined"]
    return np.where(decodes, steps, 0)


def encoded(now: state.State) -> np.ndarray:
    """Rows of ENCODES by replica; one that does nothing else was busy with it all its steps."""
    rows = np.array(now.encodes)
    alone = now.engines["role"][now.replicas["pool"]] == rows_fleet.ROLE["encode"]
    rows["busy_ps"][alone] = now.totals["busy_ps"][alone]
    return rows


def client_counts(now: state.State) -> dict[str, int]:
    """What clients did beside waiting, and the work that was for nothing.

    That of copies under way counts, unless theirs is the row of the request.
    """
    clock = now.clock[0]
    slots = live_slots(now)
    spare = np.asarray(now.live)[slots[now.calls["slot"][now.live["request"][slots]] != slots]]
    more = _decoded(now, spare)
    in_cache = np.where(spare["stage"] == rows_request.ENCODING, 0, spare["n_computed"] + more)
    computed = in_cache + spare["recomputed"] - spare["cached"]
    return {
        "given_up": int(clock.n_given_up),
        "sent_again": int(clock.n_sent_again),
        "hedged": int(clock.n_hedged),
        "wasted_tokens": int(clock.wasted_tokens + computed.sum()),
        "wasted_output_tokens": int(clock.wasted_out + (spare["n_out"] + more).sum()),
    }


def wrong_choice(clock: Any, found: Mapping[str, Sequence[Found]]) -> PolicyError:
    """The error for what a policy did, as the core noted it."""
    kind, value, at = int(clock.wrong_kind), int(clock.wrong_value), int(clock.now_ps) / PS
    batch = found["batch"][0].name
    if kind in (BAD_ROUTE, BAD_PLACE):
        return PolicyError.one(
            f"policy {found['route' if kind == BAD_ROUTE else 'place'][0].name}",
            f"sent request {int(clock.wrong_request)} to replica {value} at {at:.6f} s; "
            f"there are {int(clock.wrong_replica)} to choose from, 0 to "
            f"{int(clock.wrong_replica) - 1}",
            "return the index of one of them, a column of `load`",
        )
    if kind == BAD_FETCH:
        return PolicyError.one(
            f"policy {found['fetch'][0].name}",
            f"wants {value} blocks for request {int(clock.wrong_request)} at {at:.6f} s; "
            f"{int(clock.wrong_replica)} are offered",
            "return from 0 to offer.n_blocks",
        )
    if kind == BAD_DRAFT:
        return PolicyError.one(
            f"policy {found['speculate'][0].name}",
            f"proposes {value} tokens for request {int(clock.wrong_request)} on replica "
            f"{int(clock.wrong_replica)} at {at:.6f} s",
            "return 0 to engine.draft_most",
        )
    where = f"policy {batch}, replica {int(clock.wrong_replica)} at {at:.6f} s"
    if kind == BAD_BATCH:
        return PolicyError.one(
            where,
            f"asked for {value} prompt tokens in a step, which is too many beside its decodes",
            "return at most engine.max_tokens - replica.n_decode where decodes run too",
        )
    if kind == BAD_TURN:
        turn = found["turn"][0].name
        return PolicyError.one(
            f"policy {turn}, replica {int(clock.wrong_replica)} at {at:.6f} s",
            f"chose model {value}, which no request waits for there",
            "return the loaded model while it has requests, else one with queued[QUEUED] > 0",
        )
    assert kind == STUCK
    return PolicyError.one(
        where,
        f"{value} requests wait, and the step it formed computes nothing",
        "let a step decode or start a request; whole-prompt batching needs "
        "max_num_batched_tokens at least as large as the longest prompt",
    )


def assumed(
    pools: Sequence[Served], tiers: Sequence[Tier], own_caps: bool = False
) -> tuple[str, ...]:
    """What a run of these takes for granted, in sentences; own_caps : some requests have caps."""
    out = []
    engines = [served.pool.engine for served in pools]
    if any(served.pool.pp > 1 for served in pools):
        out.append(
            "pipeline stages: each replica runs pp batches in turn, each with its share of the "
            "sequences and KV blocks; bubbles from batches of unequal length are left out"
        )
    if any(served.pool.role == "encode" for served in pools):
        out.append(
            "images, video and sound stand at the start of their prompts, all of a request the "
            "same size; reading and resizing them is not priced; their embeddings stay with a "
            "request until it ends or its replica fails"
        )
    if tiers:
        out.append(
            "KV tiers: writing is not waited for; KV comes up whole, tier after tier, before "
            "the rest of its prompt is computed"
        )
    if any(engine.tuning is not None for engine in engines):
        out.append(
            "fine-tuning: its tokens are computed forward beside the step's own, and backward by "
            "themselves, at the rates of prompts; logits and loss, gradients that replicas "
            "exchange and the optimiser's steps are left out; it ends with the last request"
        )
    if any(engine.kv_precision for engine in engines):
        out.append(
            "older KV in fewer bits: blocks are counted at the mean length of the requests, "
            "dequantising takes 4 instructions an element (an estimate) beside the loads, chunks "
            "of prompts read the past at their own pace, and what the answers lose is not looked at"
        )
    if own_caps or any(engine.kept_tokens or engine.attended_tokens for engine in engines):
        drafts = any(engine.speculation is not None for engine in engines)
        once = ", the same for all tokens of a request that a step verifies" if drafts else ""
        out.append(
            "caps on kept or attended tokens: which tokens are kept is chosen for free, those that "
            f"are read {PICKED[engines[0].attended_by]}{once}; what the answers lose is not looked "
            "at"
        )
    return tuple(out)
