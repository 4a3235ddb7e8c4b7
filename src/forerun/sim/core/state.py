"""All arrays of one run, with the row types of its clock and commands.

Legend: r slot of a live request, i replica, p pool; `*_ps` int64 picoseconds.  Everything that a
function of the core takes is int64: with two widths of integers the compiler would make each
function twice.
"""

from __future__ import annotations

from collections import namedtuple
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from forerun.sim.core.rows_fleet import (
    BRANCHED,
    ENCODES,
    ENGINE,
    LANE,
    LINE,
    LOADS,
    PORT,
    REPLICA,
    TENANT,
    TUNED,
)
from forerun.sim.core.rows_kept import (
    ADAPTER,
    ALBUM,
    ANSWER,
    FITTED,
    KEPT,
    OFFER,
    PICTURE,
    SHELF,
    SLOT,
    STORE,
    TEXT,
)
from forerun.sim.core.rows_log import DONE, GAP, LEAP, TOTALS
from forerun.sim.core.rows_request import ARRIVAL, ASK, CALL, FLOW, LIVE, SUCCESSOR, TIMER
from forerun.sim.core.signatures import KINDS

#: what a policy can do wrong, as `clock.wrong_kind` says it; 0 is nothing
MISTAKE = {"stuck": 1, "batch": 2, "route": 3, "place": 4, "fetch": 5, "speculate": 6, "turn": 7}

#: what a caller can order of a replica: it takes requests (value 1 + p: it is empty and starts
#: cold, as one of row p, with no prefix kept) or takes no more; it is gone, its requests are sent
#: again (value 1: they fail), it runs as one of row `value`, it gives `value` of its decoding
#: requests to whom the `place` policy chooses, as long as there is room, its link has `value`
#: millionths of its bandwidth, it runs as row `value` but with the model that it has or is about to
#: have
VERBS = {"open": 0, "close": 1, "fail": 2, "switch": 3, "move": 4, "link": 5, "set": 6}

#: for a time to come
COMMAND = np.dtype(
    [("time_ps", "i8"), ("verb", "i8"), ("who", "i8"), ("value", "i8")],
    align=True,
)

CLOCK = np.dtype(
    [
        ("now_ps", "i8"),
        ("event_ps", "i8"),  # of the last event; the clock may have been told to go on
        ("next_arrival", "i8"),  # in `arrivals`
        ("n_arrivals", "i8"),  # filled rows of `arrivals`
        ("last_chunk", "i8"),  # 1: no arrivals come after those in the buffer
        ("closed", "i8"),  # 1: a request is released when another one ends
        ("think_ps", "i8"),
        ("has_calls", "i8"),  # 1: `calls` has a row for each request
        ("has_clients", "i8"),  # 1: clients wait so long, try again, send copies:
        ("first_token_by_ps", "i8"),  # without a token by then they give up; 0 never
        ("end_by_ps", "i8"),  # the same for the whole answer
        ("hedge_ps", "i8"),  # a second copy is sent; 0 never
        ("hedge_first", "i8"),  # 1: the first token decides between copies, else the last
        ("max_retries", "i8"),
        ("retry_timeouts", "i8"),
        ("retry_failures", "i8"),  # 1: the client, not the front, sends what a failure lost
        ("backoff_ps", "i8"),  # before the first retry ...
        ("backoff_thousandths", "i8"),  # ... and by how much longer before the next
        ("n_timers", "i8"),
        ("n_given_up", "i8"),
        ("n_sent_again", "i8"),
        ("n_hedged", "i8"),
        ("wasted_tokens", "i8"),  # computed by copies whose answer nobody took ...
        ("wasted_out", "i8"),  # ... and produced
        ("retry_rejections", "i8"),
        ("has_answers", "i8"),  # 1: answers are kept in front and given again ...
        ("hit_ps", "i8"),  # ... so long after they were found ...
        ("answer_token_ps", "i8"),  # ... and this long between two of their tokens
        ("gated", "i8"),  # 1: a policy says who is let in
        ("go_on", "i8"),  # 1: successors of a request that gave no answer are sent all the same
        ("passed_ps", "i8"),  # at this time the boundaries of replicas below ...
        ("passed", "i8"),  # ... this one have been, see `wake.due`
        ("host_request_ps", "i8"),  # of a released request: from sent to ready ...
        ("host_prompt_token_ps", "i8"),  # ... and per prompt token
        ("n_pending", "i8"),  # released, not yet ready
        ("n_live", "i8"),
        ("free", "i8"),  # head of the list of free slots
        ("n_done", "i8"),
        ("n_leaps", "i8"),
        ("n_gaps", "i8"),
        ("by_request", "i8"),  # 1: row r of `done` is request r's, else rows come as they end
        ("keep_leaps", "i8"),
        ("refresh_load", "i8"),  # 1: the router wants KV use as of now
        ("refresh_cached", "i8"),  # 1: a router wants to know who keeps the prompt's prefix
        ("hash_tokens", "i8"),  # tokens of a prefix block; 0 when prefixes are not kept
        ("n_verify", "i8"),  # decode tables by queries a request: 1, 2, 4, ..
        ("restricted", "i8"),  # 1: not every replica takes every request
        ("has_adapters", "i8"),
        ("tunes", "i8"),  # 1: some replica has a backlog of tuning tokens
        ("next_move_ps", "i8"),  # first end of a transfer
        ("n_moving", "i8"),
        ("next_command", "i8"),
        ("n_commands", "i8"),
        ("held_head", "i8"),  # requests that no replica takes, linked by next
        ("held_tail", "i8"),
        ("wrong_kind", "i8"),  # what a policy did wrong, with the request and replica
        ("wrong_request", "i8"),
        ("wrong_replica", "i8"),
        ("wrong_value", "i8"),
        ("fair", "i8"),  # 1: what tenants are served is counted ...
        ("fair_shared", "i8"),  # ... over the fleet, else by replica
        ("fair_lift", "i8"),  # 1: who comes back has saved nothing up
        ("last_tenant", "i8"),  # as of a replica, over the fleet
        ("roles_change", "i8"),  # 1: a replica has taken on another role
        ("n_untied", "i8"),  # requests whose KV was given up, so that nobody waits in a circle
        ("moves", "i8"),  # 1: a place is sought for a request that decodes
        ("denoises", "i8"),  # 1: some replicas denoise
        ("has_nets", "i8"),  # 1: ControlNets come and go ...
        ("first_net", "i8"),  # ... whose slots begin there, behind those of adapters
    ],
    align=True,
)


I8, I4, F8, U8 = np.dtype("i8"), np.dtype("i4"), np.dtype("f8"), np.dtype("u8")

#: Dtype and rank of all arrays of a run.  Shapes: A arrivals in the buffer, L live slots,
#: R replicas, P pools (a pool that serves several models counts once a model), N models, M most
#: sequences a replica runs, Z gap stack, G grid points, K knots, B prefix blocks kept, D most
#: tokens in a row that are proposed.
LAYOUT: dict[str, tuple[np.dtype, int]] = {
    "clock": (CLOCK, 1),  # [1]
    "arrivals": (ARRIVAL, 1),  # [A], by ready_ps (closed loop: in order of release)
    "pending": (ARRIVAL, 1),  # released: heap by (ready_ps, request), and two spare rows
    "way_ps": (I8, 2),  # [G, G], one way between regions; one region when nobody is far
    "wanted": (ARRIVAL, 1),  # [N], each request by its number (deadlines count from arrival) ...
    "calls": (CALL, 1),  # [N], ... if one can lead to another; else both are empty
    "successors": (SUCCESSOR, 1),  # by predecessor
    "flows": (FLOW, 1),  # workflows
    "asks": (ASK, 1),  # [N], by number of request, where answers are kept in front; else empty:
    "texts": (TEXT, 1),  # [W], that requests can have
    "near": (I8, 1),  # texts like a text, the most alike first ...
    "similarity": (F8, 1),  # ... and how alike
    "answers": (ANSWER, 1),  # [W * models]
    "shelves": (SHELF, 1),  # by category
    "answer_links": (I8, 3),  # [2, W * models, 2], by use and by age: the answers before and after
    "shelf_ends": (I8, 3),  # [2, categories, 2], the first and the last of each
    "n_right": (I8, 1),  # [questions * models], answers to each that are kept
    "tried": (I8, 3),  # [categories, bins of similarity, 2], matches computed, and of them right
    "doubt_seed": (U8, 1),  # [1], of the draws who is computed to learn
    "timers": (TIMER, 1),  # heap by (time, request, kind), and a spare row
    "live": (LIVE, 1),  # [L]
    "replicas": (REPLICA, 1),  # [R]
    "totals": (TOTALS, 1),  # [R]
    "engines": (ENGINE, 1),  # [P]
    "serves": (I8, 2),  # [P, N], row of `engines` by which a replica of a row serves a model
    "parked": (I8, 2),  # [R, N + A], queues of requests for models that are not loaded, then for
    "n_parked": (I8, 2),  # [R, N + A], adapters, ... and how many they are
    "tenants": (TENANT, 1),  # [U], empty when nobody counts
    "lines": (LINE, 1),  # [R * U], tenant u at replica i in row i * U + u
    "resident": (I8, 2),  # [R, N], number of the last turn of a model that is there, or -1
    "block_ps": (I8, 2),  # [P, K], of load_ps: for blocks of weights that other models have too
    "block_bytes": (I8, 2),  # [P, K], the same of load_bytes
    "loads": (LOADS, 1),  # [R]
    "encodes": (ENCODES, 1),  # [R]
    "branched": (BRANCHED, 1),  # [R]
    "net_free_ps": (I8, 1),  # by device for ControlNets that replicas share: free from then on
    "controls": (I8, 1),  # ControlNets by request, bit k for the k-th; none where there are none
    "items": (I8, 1),  # of the prompts in `arrivals`, by number; -1 for one without a name
    "albums": (ALBUM, 1),  # [C]
    "pictures": (PICTURE, 2),  # [C, items with a name]
    "adapters": (ADAPTER, 1),  # [A + C], and ControlNets that come and go
    "slots": (SLOT, 2),  # [R, A + C]
    "fitted": (FITTED, 1),  # [R]
    "netted": (FITTED, 1),  # [R], the same of ControlNets
    "tuned": (TUNED, 1),  # [R]
    "tune_ps": (I8, 2),  # [P, G], of tuning tokens beside their forward products
    "adapter_blocks": (I8, 2),  # [P, A], of the KV cache, that an adapter takes
    "adapter_ps": (I8, 3),  # [P, A + C, 2], from the host to a replica, and from beyond to the host
    "lanes": (LANE, 1),  # [R]
    "queued": (I8, 2),  # [fields, N], what the turn policy reads; rows in signatures.py
    "load": (I8, 2),  # [fields, R], what routers read; rows in signatures.py
    "offered": (I8, 1),  # [fields * R], those columns of `load` that a router may choose from
    "offered_of": (I8, 1),  # [R], which replicas they are
    "moving": (I8, 1),  # [L], slots of requests whose KV is on its way
    "ports": (PORT, 1),  # out of store s at 2s and into it at 2s + 1 (replica i is store i);
    # from row 2S on: replica i's way from tier d of D at 2S + 2(iD + d), to it one further
    "hashes": (I8, 1),  # prefix blocks of the prompts in `arrivals`
    "stores": (STORE, 1),  # [S], those of the replicas, then the tiers below
    "kept": (KEPT, 1),  # [B]
    "idle": (I8, 1),  # [B], heaps of idle blocks where the rule is not lru
    "to_fetch": (I8, 2),  # [L, D], tokens that a slot's request still wants from each tier
    "offer": (OFFER, 1),  # [1]
    "buckets": (I8, 1),  # hash tables of the stores: a row of `kept`, or -1
    "commands": (COMMAND, 1),  # by time_ps
    "agenda": (I8, 1),  # [R], heap of replicas by next event ...
    "agenda_ps": (I8, 1),  # [R], ... and when that is
    "residue": (I4, 2),  # [R, block_tokens], decoders by (n_computed - decoded) % block_tokens
    "last_step": (I8, 2),  # [R, M], heap: decode step count after which a request is done
    "last_member": (I8, 2),  # [R, M]
    "fresh": (I8, 2),  # [R, M], joined the decoders since the last decode step
    "gap_step": (I8, 2),  # [R, Z], stack of longest gaps: decode step count, rising ...
    "gap_ps": (I8, 2),  # [R, Z], ... and the gap, falling
    "done": (DONE, 1),  # [..]
    "leaps": (LEAP, 1),  # [..]
    "gaps": (GAP, 1),  # [..]
    "in_steps": (LEAP, 1),  # [R], of the steps under way, when `step_end.under_way` was asked last
    "tokens_ps": (I8, 2),  # [P, G]
    "seqs_ps": (I8, 2),  # [P, G]
    # a row a pool, then one a pool whose steps with chunks differ (`mixed_row`), P' in all
    "decode_ps": (I8, 3),  # [P', M+1, K], at the knot
    "decode_slope": (I8, 3),  # [P', M+1, K], per cached token of all decoders together
    "pick_ps": (I8, 2),  # [P, M+1], by decoders that pick, for each token they pick from
    "prefill_ps": (I8, 3),  # [P, G, K]
    "prefill_slope": (I8, 3),  # [P, G, K], per token before the chunk
    "knots_ctx": (I8, 2),  # [P, K], mean cached tokens a decoder
    "knots_past": (I8, 2),  # [P, K]
    **{f"{kind}_params": (F8, 1) for kind in KINDS},  # the knobs of each policy
    "route_memory": (I8, 1),  # [8 + R], the router's own
    "encode_memory": (I8, 1),  # [8 + R], of the router where it sends requests to be encoded
    "route_rng": (U8, 1),  # [1]
    "place_memory": (I8, 1),
    "draft_seed": (U8, 1),  # [1], of the draws whether a proposed token is right
    "draft_level": (I8, 2),  # [P, D+1], tokens proposed at each depth (1 without a tree)
    "draft_nodes": (I8, 2),  # [P, D+1], those up to a depth
    "draft_shape": (F8, 2),  # [P, D+1], chance at a depth relative to the request's own
    "draft_alpha": (F8, 2),  # [P, ..], the requests' own chances: quantiles
    "draft_ps": (I8, 1),  # [D+1], what a step would take at each depth, as quoted last
    "drafting": (I8, 1),  # [D+2], requests drafted for at each depth, as counted last
    "gate_memory": (I8, 1),  # [8 + 2 * tenants]
}

if TYPE_CHECKING:
    State = Any
else:

    class State(namedtuple("State", [*LAYOUT, *KINDS])):
        """All of a run: the arrays of LAYOUT, and a policy of each kind.

        One whose array is another is another State, so what is worked out from a State's addresses
        is kept with it (see `native.Pointer`), but not with a copy of it.
        """

        def __getstate__(self):
            return None


def rows(n, dtype):
    """An array of records whose fields read as attributes, compiled or not."""
    return np.zeros(n, record(dtype)).view(np.recarray)


@cache
def record(dtype):
    return np.dtype((np.record, dtype))


def free_slots(live, start):
    """Chain the slots from `start` on into a list of free ones, linked by `next`."""
    n = len(live)
    live.source[start:] = live.n_due[start:] = -1
    live.next[start:] = np.arange(start + 1, n + 1)
    if n > start:
        live.next[n - 1] = -1


def new_replicas(pool_of_replica):
    """Idle replicas, one a given pool index."""
    n = len(pool_of_replica)
    replicas = rows(n, REPLICA)
    replicas.pool = pool_of_replica
    replicas.place = np.arange(n)
    links = ("queue", "last_tenant", "run_head", "run_tail", "chunk_head", "chunk_tail")
    for link in (*links, "ready_head", "ready_tail", "show_head"):
        replicas[link] = -1
    replicas.accepts = 1
    replicas.partner, replicas.memory = -1, np.arange(n)
    replicas.album = -1
    replicas.next_pool = pool_of_replica
    return replicas
