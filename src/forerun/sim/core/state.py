"""What the core keeps: row types of its arrays, and the arrays of one run.

Legend: r slot of a live request, i replica, p pool; `*_ps` int64 picoseconds.  Everything that a
function of the core takes is int64: with two widths of integers the compiler would make each
function twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: how a request ended
STATUS = {"finished": 0, "rejected": 1, "aborted": 2, "unfinished": 3, "cancelled": 4, "failed": 5}

#: a request that has ended (or that the run left behind)
DONE = np.dtype(
    [
        ("request", "i8"),  # index into the workload
        ("arrival_ps", "i8"),
        ("scheduled_ps", "i8"),  # start of the first step that computed some of it; -1 never
        ("first_token_ps", "i8"),  # -1 never
        ("done_ps", "i8"),  # last token, rejection or abort
        ("isl", "i4"),
        ("osl", "i4"),  # tokens asked for
        ("n_out", "i4"),  # tokens produced
        ("replica", "i4"),  # -1 when it was never routed
        ("n_preempt", "i4"),
        ("recomputed", "i4"),  # tokens computed again after preemption; lost ones when it failed
        ("max_itl_ps", "i8"),  # longest gap between two of its tokens; 0 with one token
        ("status", "i4"),  # one of STATUS
        ("tag", "i4"),  # the workload's tenant
        ("cached", "i4"),  # tokens that a cache or a transfer gave at its first admission
        (
            "prefill_replica",
            "i4",
        ),  # that computed the prompt for another one; -1 when `replica` did
        ("n_retries", "i4"),  # times it was sent again because its replica failed
        ("model", "i4"),  # that it asked for
        ("away_ps", "i8"),  # between replicas: until the next one had room and the KV had come
        ("n_drafted", "i4"),  # tokens proposed for it that were verified ...
        ("n_extra", "i4"),  # ... and of them accepted
    ],
    align=True,
)

#: a run of equal steps of one replica: step i of it takes first_ps + i * slope_ps
LEAP = np.dtype(
    [
        ("start_ps", "i8"),
        ("first_ps", "i8"),
        ("slope_ps", "i8"),
        ("n_steps", "i4"),
        ("replica", "i4"),
        ("n_tokens", "i4"),  # computed in each step
        ("n_seqs", "i4"),  # sampled in each step
        ("n_decode", "i4"),  # of them decoding
        ("n_chunks", "i4"),  # prefill chunks in each step
        ("ctx", "i8"),  # cached tokens of all decoding requests at the first step
        ("chunk", "i4"),  # tokens of all chunks in each step
        ("n_waiting", "i4"),  # after the batch was formed
        ("past", "i8"),  # tokens before the chunks at the first step, all chunks together
        ("n_blocks", "i4"),  # in use during the last step
        ("n_running", "i4"),
        ("pool", "i4"),  # whose costs it ran with
        ("n_still", "i4"),  # decoders whose cached tokens to read grow no more
        ("n_draft", "i4"),  # proposed tokens that each step verified, in n_tokens ...
        ("n_extra", "i4"),  # ... and accepted: n_steps is 1, and they come with its end, gap 0
        ("depth", "i4"),  # most tokens in a row proposed for one request: passes of the draft
        ("draft_tokens", "i4"),  # that the draft computed in these passes, all together
    ],
    align=True,
)

#: `count` requests of a replica whose previous token came before the step that ends at end_ps
#: began, so that their gap is longer than the step.  With resumed = 1 the token came out of the
#: recomputation after a preemption, so these requests are not among the leap's n_decode.
GAP = np.dtype(
    [("end_ps", "i8"), ("gap_ps", "i8"), ("replica", "i8"), ("count", "i4"), ("resumed", "i4")],
    align=True,
)

#: sums over a replica's life
TOTALS = np.dtype(
    [
        ("busy_ps", "i8"),
        ("n_steps", "i8"),
        ("n_tokens", "i8"),  # computed, recomputed and rejected ones included
        ("n_drafted", "i8"),  # of them proposed by a draft ...
        ("n_extra", "i8"),  # ... and accepted
        ("n_out", "i8"),
        ("n_done", "i8"),
        ("n_preempt", "i8"),
        ("n_failed", "i8"),
        ("n_moved", "i8"),  # requests that left it with their KV
        ("moved_bytes", "i8"),  # of KV, out of it
        ("lost_ps", "i8"),  # of steps that failures cut short
        ("peak_blocks", "i8"),
        ("peak_running", "i8"),
    ],
    align=True,
)

#: a request on its way to the router
ARRIVAL = np.dtype(
    [
        ("request", "i8"),
        ("arrival_ps", "i8"),  # sent by the client
        ("ready_ps", "i8"),  # past the API server and the tokenizer
        ("deadline_ps", "i8"),  # absolute; NEVER when none
        ("session", "i8"),  # -1 when none
        ("workflow", "i8"),  # a row of `flows`; -1 when none
        ("isl", "i8"),
        ("osl", "i8"),
        ("priority", "i4"),
        ("tenant", "i4"),
        ("hash_at", "i8"),  # its prompt's blocks in `hashes`
        ("n_hash", "i8"),
        ("acceptance", "f8"),  # chance that a token proposed for it is right; -1: as its pool says
        ("model", "i8"),  # that it asks for
    ],
    align=True,
)

#: what is known of a request beyond its slot: whom it waits for and who waits for it
CALL = np.dtype(
    [
        ("workflow", "i8"),  # a row of `flows`; -1 when none
        ("n_before", "i8"),  # predecessors that have not ended
        ("next_at", "i8"),  # its successors in `successors`
        ("n_next", "i8"),
        ("lost", "i8"),  # 1: a predecessor gave no answer
        ("sent_ps", "i8"),  # when it is sent, as far as the predecessors that have ended say
        ("attempt", "i8"),  # how often it has been sent
        ("slot", "i8"),  # copies that its client waits for; -1 when none
        ("twin", "i8"),
        ("loser", "i8"),  # a copy that is to be dropped
    ],
    align=True,
)

#: when a client does something about a request, if what it waits for has not come
TIMER = np.dtype(
    [("time_ps", "i8"), ("request", "i8"), ("kind", "i8"), ("attempt", "i8")], align=True
)

#: one request is sent delay_ps after another one has ended
SUCCESSOR = np.dtype([("request", "i8"), ("delay_ps", "i8")], align=True)

#: requests that belong together
FLOW = np.dtype([("n_left", "i8"), ("start_ps", "i8")], align=True)

#: phases of a live request.  FETCHING: it holds blocks that its KV is on the way to, and no seat;
#: READY: the KV is there, and it joins at the next boundary at which a seat is free; HELD: no
#: replica takes requests, and it waits in front of the router.
WAITING, COMPUTING, DECODING, FETCHING, READY, HELD = 0, 1, 2, 3, 4, 5

#: a request between router and last token; policies see this record
LIVE = np.dtype(
    [
        ("request", "i8"),
        ("arrival_ps", "i8"),
        ("deadline_ps", "i8"),
        ("session", "i8"),
        ("isl", "i8"),
        ("osl", "i8"),  # its true length: a policy that reads it is an oracle
        ("priority", "i8"),
        ("tenant", "i8"),
        ("model", "i8"),
        ("n_preempt", "i8"),
        ("n_out", "i8"),  # tokens produced, up to date when it joins or leaves the decoders
        ("n_known", "i8"),  # prompt and produced tokens; what is computed chases this
        ("n_computed", "i8"),  # in the KV cache, up to date when it joins or leaves the decoders
        ("n_blocks", "i8"),  # held, without those that decoding adds
        ("recomputed", "i8"),
        ("key", "i8"),  # place in the queue, from the order policy
        ("admitted", "i8"),  # running number of its admission to this replica
        ("scheduled_ps", "i8"),
        ("first_token_ps", "i8"),
        ("last_token_ps", "i8"),  # when it joined the decoders or left them
        ("max_itl_ps", "i8"),
        ("reads", "i8"),  # most cached tokens that its decoding reads ...
        ("keeps", "i8"),  # ... and that it has in memory, both as of when it joined the decoders
        ("joined", "i8"),  # its replica's decode step count when it joined the decoders
        ("replica", "i8"),
        ("pool", "i8"),
        ("place", "i8"),  # in the heap of last steps, or of those at which it stops growing
        ("child", "i8"),  # queue links
        ("sibling", "i8"),
        ("prev", "i8"),  # running list, in order of admission
        ("next", "i8"),
        ("chunk_next", "i8"),  # list of requests that compute more than one token
        ("chunk", "i8"),  # tokens of its chunk in each step of the present leap
        ("phase", "i8"),
        ("aborted", "i8"),
        ("hash_at", "i8"),  # its prompt's blocks in `hashes` ...
        ("n_hash", "i8"),  # ... whole ones only
        ("n_shared", "i8"),  # of them in the store of its replica, held
        ("cached", "i8"),
        ("source", "i8"),  # replica that computed its KV and still holds it; -1 when none
        ("n_left", "i8"),  # blocks held there for it alone ...
        ("n_left_shared", "i8"),  # ... and prefix blocks in the store there
        ("left_ps", "i8"),  # when it left there
        ("away_ps", "i8"),
        ("n_retries", "i8"),
        ("prefill_replica", "i8"),
        ("n_due", "i8"),  # tokens it has when its KV has come from lower tiers; -1: none comes
        ("called_ps", "i8"),  # when it began to wait for that
        ("swapped", "i8"),  # blocks of the first tier that keep its KV while it is preempted
        ("draft", "i8"),  # tokens proposed for it in the step under way
        ("draft_at", "i8"),  # tokens that the draft has in its KV, up to date as n_computed is
        ("n_drafted", "i8"),  # tokens proposed for it that were verified, in all ...
        ("n_extra", "i8"),  # ... and accepted, ...
        ("n_rounds", "i8"),  # ... in so many steps
        ("recent_right", "f8"),  # of late, older rounds weighing less: tokens found right ...
        ("recent_tried", "f8"),  # ... of those looked at (none behind a wrong one is)
        ("acceptance", "f8"),  # its true chance, -1 as its pool says: who reads it is an oracle
        ("avoid", "i8"),  # replica that another copy of it is on; -1 when none
        ("rate", "f8"),  # of its transfer, bytes a picosecond
        ("to_move", "f8"),  # bytes still to be moved ...
        ("moved_ps", "i8"),  # ... at this time, later than now while latency passes
        ("move_end_ps", "i8"),
        ("move_from", "i8"),  # ports
        ("move_to", "i8"),
    ],
    align=True,
)

#: one engine with its devices.  Between events it is a formula: the fields up to `n_blocks` only
#: change at events, those from `n_steps` on describe the leap in progress.
REPLICA = np.dtype(
    [
        ("place", "i8"),  # in the agenda
        ("pool", "i8"),
        ("n_running", "i8"),
        ("n_decode", "i8"),
        ("n_reading", "i8"),  # decoders that read one cached token more in each step ...
        ("n_taking", "i8"),  # ... and those that keep one more
        ("n_chunks", "i8"),
        ("n_waiting", "i8"),
        ("queue", "i8"),  # root of the waiting queue
        ("run_head", "i8"),
        ("run_tail", "i8"),
        ("chunk_head", "i8"),
        ("chunk_tail", "i8"),
        ("n_fresh", "i8"),  # joined the decoders since the last decode step
        ("n_gaps", "i8"),  # entries in the stack of longest gaps
        ("n_aborted", "i8"),  # running requests to be dropped at the next boundary
        ("accepts", "i8"),  # 1: routers may choose it
        ("ready_head", "i8"),  # requests whose KV has come, linked by chunk_next
        ("ready_tail", "i8"),
        ("n_orders", "i8"),  # commands that wait for its next boundary
        ("next_pool", "i8"),  # whose costs and role it takes on at its next boundary
        ("n_parked", "i8"),  # requests that wait here for models that are not loaded
        ("free_ps", "i8"),  # no step begins before: weights are being loaded
        ("n_to_move", "i8"),  # decoding requests to be given away at its next boundary
        ("n_away", "i8"),  # requests that hold blocks here and do not run here: KV comes or goes
        ("n_coming", "i8"),  # of them and of those ready: whose KV comes or came from lower tiers
        ("n_blocks", "i8"),  # in use at the start of the leap in progress
        ("admissions", "i8"),
        ("decoded", "i8"),  # decode steps completed
        ("decoded_ps", "i8"),  # when the last of them ended
        ("ended_ps", "i8"),  # when its last step ended
        ("n_steps", "i8"),  # of the leap in progress; 0 when idle
        ("start_ps", "i8"),
        ("first_ps", "i8"),
        ("slope_ps", "i8"),
        ("ctx", "i8"),  # cached tokens of the decoders at the start
        ("past", "i8"),  # tokens before the chunks at the start
        ("chunk", "i8"),  # tokens of all chunks in each step
        ("left_waiting", "i8"),  # n_waiting when the batch was formed
        ("in_step", "i8"),  # decoders that the leap advances (0 or n_decode)
        ("n_seqs", "i8"),  # sampled in each step
        ("n_draft", "i8"),  # proposed tokens that the step verifies
        ("lookahead", "i8"),  # blocks kept for them until they are accepted or not
        ("depth", "i8"),  # passes of the draft in the step ...
        ("draft_tokens", "i8"),  # ... and the tokens it computes in them
    ],
    align=True,
)

#: settings and table sizes of one pool
ENGINE = np.dtype(
    [
        ("max_seqs", "i8"),
        ("max_tokens", "i8"),
        ("max_len", "i8"),
        ("n_blocks", "i8"),
        ("block_tokens", "i8"),
        ("watermark", "i8"),  # blocks kept free at admission
        ("reserve", "i8"),  # one of RESERVE
        ("host_step_ps", "i8"),
        ("eager_ps", "i8"),  # least time of a step with chunks, without host terms
        ("host_seq_ps", "i8"),
        ("every_step", "i8"),  # 1: the batch policy looks at what changes inside a leap
        ("max_leap", "i8"),  # 1 steps through everything
        ("mixed_num", "i8"),  # Vidur: several chunks are one chunk of root-sum-square length ...
        ("mixed_den", "i8"),  # ... times num/den; 0 adds the chunks up
        ("mixed_row", "i8"),  # row of the decode tables for a step that also computes chunks
        ("mixed_cross_ps", "i8"),  # in such a step, per decoding request and token of its chunks
        ("role", "i8"),  # one of ROLE
        ("kv_token_bytes", "i8"),  # of KV, all devices of a replica together
        ("streamed", "i8"),  # 1: layers of KV leave while later ones are computed
        ("n_layers", "i8"),
        ("speed", "i8"),  # relative to the fastest pool, in thousandths
        ("keeps", "i8"),  # cached tokens of a request at most, cut after each step; NO_CAP
        ("reads", "i8"),  # of them read by a decoding request at most
        ("anywhere", "i8"),  # 1: KV of a block is used wherever it stands in a prompt ...
        ("again", "f8"),  # ... and this share of its tokens is computed again
        ("swap", "i8"),  # 1: what a preempted request had computed goes to the first tier
        ("draft_most", "i8"),  # tokens in a row proposed for a request; 0: it does not speculate
        ("draft_priced", "i8"),  # 1: its `speculate` policy wants to know what steps would take
        ("draft_row", "i8"),  # of the draft's tables; -1 when no device drafts
        ("draft_apart", "i8"),  # 1: the draft has devices of its own
        ("draft_step_ps", "i8"),  # host time of a pass of the draft ...
        ("draft_seq_ps", "i8"),  # ... and in each step for every request that is drafted for
        ("draft_trip_ps", "i8"),  # to the draft's devices and back
        ("draft_tokens", "i8"),  # most a pass of the draft computes
        ("verify_row", "i8"),  # of the decode tables: 1, 2, 4, .. queries a request; -1 none
        ("draft_verify_row", "i8"),  # the same, of the draft
        ("model", "i8"),
        ("family", "i8"),  # models of one base differ in a part of their weights only; -1: no such
        ("n_resident", "i8"),  # models whose weights a replica keeps at a time
        ("load_ps", "i8"),  # all weights, from where they are kept ...
        ("own_ps", "i8"),  # ... or those that its base has not
        ("load_bytes", "i8"),
        ("own_bytes", "i8"),
        ("every_turn", "i8"),  # 1: the turn policy looks at what changes inside a leap
    ],
    align=True,
)
NO_CAP = 1 << 40
RESERVE = {"chunk": 0, "prompt": 1, "full": 2}
#: what a replica is for: everything, prompts only, or answers to prompts computed elsewhere
ROLE = {"both": 0, "prefill": 1, "decode": 2}

#: which block a store drops first: let go or used longest ago, added longest ago, used least often
RULE = {"lru": 0, "fifo": 1, "lfu": 2}

#: prefix blocks kept by hash: in the memory of replica i (row i), or in a tier below it
STORE = np.dtype(
    [
        ("at", "i8"),  # first of its rows of `kept` and of `idle`
        ("n_rows", "i8"),
        ("bucket_at", "i8"),  # first of its rows of `buckets`
        ("mask", "i8"),  # how many buckets, a power of two, less one
        ("spare", "i8"),  # head of its unused rows, linked by `next`
        ("oldest", "i8"),  # blocks that nobody holds, linked by `next` and `prev` (lru)
        ("newest", "i8"),
        ("n_idle", "i8"),  # how many nobody holds
        ("n_kept", "i8"),
        ("n_evicted", "i8"),
        ("rule", "i8"),  # one of RULE
        ("ticks", "i8"),  # counts additions and uses, to tell what came first
        ("below", "i8"),  # the store that takes what this one drops; -1 when none
        ("depth", "i8"),  # of a tier: 0 the first below the replicas; -1 for a replica's own
        ("owner", "i8"),  # the replica that a tier falls with; -1 when it is shared
        ("through", "i8"),  # 1: blocks go below as soon as they are computed
        ("network", "i8"),  # 1: reached by the replicas' network ports
        ("block_tokens", "i8"),  # of a row
        ("n_swapped", "i8"),  # rows taken by preempted requests
        ("buffer_bytes", "f8"),  # that may wait to be written; what comes then is lost
        ("n_written", "i8"),
        ("n_refused", "i8"),
        ("hit_tokens", "i8"),  # that requests found here and used
        ("swap_tokens", "i8"),  # that came back from here after a preemption
        ("wait_ps", "i8"),  # of a replica: time of its requests in transfers from tiers
        ("n_waits", "i8"),  # how many such waits
    ],
    align=True,
)

#: a prefix block in a store
KEPT = np.dtype(
    [
        ("key", "i8"),
        ("holders", "i8"),
        (
            "prev",
            "i8",
        ),  # in the list of idle blocks; with a rule other than lru its place in `idle`
        ("next", "i8"),
        ("uses", "i8"),
        ("tick", "i8"),  # fifo: of its addition; lfu: of its last use
    ],
    align=True,
)

#: what a `fetch` policy is asked about: consecutive blocks of a prompt in one tier
OFFER = np.dtype(
    [
        ("tier", "i8"),  # 0: the first below the replica's memory
        ("n_blocks", "i8"),
        ("n_tokens", "i8"),
        ("n_before", "i8"),  # tokens before them, which the request has or gets
        ("move_ps", "i8"),  # to bring them, at the present share of the ports
        ("compute_ps", "i8"),  # to compute them instead, alone in their steps
    ],
    align=True,
)

#: one direction of a connection; its transfers share it equally
PORT = np.dtype(
    [
        ("bytes_per_ps", "f8"),
        ("full_bytes_per_ps", "f8"),  # when nothing degrades it
        ("latency_ps", "i8"),
        ("n", "i8"),  # transfers under way
        ("free_ps", "i8"),  # when it was last in use
        ("bytes", "f8"),  # moved or being moved
        ("n_moved", "i8"),
    ],
    align=True,
)

#: weights that came to a replica
LOADS = np.dtype(
    [
        ("n", "i8"),  # times that it took up another model
        ("n_cold", "i8"),  # of them with weights to load
        ("load_ps", "i8"),  # in which it gave nothing
        ("drain_ps", "i8"),  # from the choice to the last answer of the model before
        ("bytes", "f8"),
        ("chosen_ps", "i8"),  # when the model that it drains for was chosen
        ("admitted", "i8"),  # `admissions` of the replica at its last turn
    ],
    align=True,
)

#: what a caller can order of a replica: it takes requests (value 1: it starts with no prefix kept)
#: or takes no more, it is gone and its requests are sent again (value 1: they fail), it runs as one
#: of pool `value`, it gives `value` of its decoding requests to whom the `place` policy chooses,
#: its link has `value` millionths of its bandwidth
VERBS = {"open": 0, "close": 1, "fail": 2, "switch": 3, "move": 4, "link": 5}
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
        ("rejected", "i8"),
    ],
    align=True,
)


class State(NamedTuple):
    """All of a run.  Shapes: A arrivals in the buffer, L live slots, R replicas, P pools (a pool
    that serves several models counts once a model), N models, M most sequences a replica runs,
    Z gap stack, G grid points, K knots, B prefix blocks kept, D most tokens in a row that are
    proposed."""

    clock: np.ndarray  # CLOCK [1]
    arrivals: np.ndarray  # ARRIVAL [A], by ready_ps (closed loop: in order of release)
    pending: np.ndarray  # ARRIVAL, released: heap by (ready_ps, request), and two spare rows
    wanted: np.ndarray  # ARRIVAL [N], each request by its number (deadlines count from arrival) ...
    calls: np.ndarray  # CALL [N], ... if one can lead to another; else both are empty
    successors: np.ndarray  # SUCCESSOR, by predecessor
    flows: np.ndarray  # FLOW, workflows
    timers: np.ndarray  # TIMER, heap by (time, request, kind), and a spare row
    live: np.ndarray  # LIVE [L]
    replicas: np.ndarray  # REPLICA [R]
    totals: np.ndarray  # TOTALS [R]
    engines: np.ndarray  # ENGINE [P]
    serves: np.ndarray  # int64 [P, N], row of `engines` by which a replica of a row serves a model
    parked: np.ndarray  # int64 [R, N], queues of requests for models that are not loaded ...
    n_parked: np.ndarray  # int64 [R, N], ... and how many they are
    resident: np.ndarray  # int64 [R, N], number of the last turn of a model that is there, or -1
    loads: np.ndarray  # LOADS [R]
    queued: np.ndarray  # int64 [fields, N], what the turn policy reads; rows in signatures.py
    load: np.ndarray  # int64 [fields, R], what routers read; rows in signatures.py
    offered: np.ndarray  # int64 [fields * R], those columns of `load` that a router may choose from
    offered_of: np.ndarray  # int64 [R], which replicas they are
    moving: np.ndarray  # int64 [L], slots of requests whose KV is on its way
    ports: np.ndarray  # PORT, out of store s at 2s and into it at 2s + 1 (replica i is store i);
    # from row 2S on: replica i's way from tier d of D at 2S + 2(iD + d), to it one further
    hashes: np.ndarray  # int64, prefix blocks of the prompts in `arrivals`
    stores: np.ndarray  # STORE [S], those of the replicas, then the tiers below
    kept: np.ndarray  # KEPT [B]
    idle: np.ndarray  # int64 [B], heaps of idle blocks where the rule is not lru
    to_fetch: np.ndarray  # int64 [L, D], tokens that a slot's request still wants from each tier
    offer: np.ndarray  # OFFER [1]
    buckets: np.ndarray  # int64, hash tables of the stores: a row of `kept`, or -1
    commands: np.ndarray  # COMMAND, by time_ps
    agenda: np.ndarray  # int64 [R], heap of replicas by next event ...
    agenda_ps: np.ndarray  # int64 [R], ... and when that is
    residue: (
        np.ndarray
    )  # int32 [R, block_tokens], decoders by (n_computed - decoded) % block_tokens
    last_step: np.ndarray  # int64 [R, M], heap: decode step count after which a request is done
    last_member: np.ndarray  # int64 [R, M]
    fresh: np.ndarray  # int64 [R, M], joined the decoders since the last decode step
    gap_step: np.ndarray  # int64 [R, Z], stack of longest gaps: decode step count, rising ...
    gap_ps: np.ndarray  # int64 [R, Z], ... and the gap, falling
    done: np.ndarray  # DONE [..]
    leaps: np.ndarray  # LEAP [..]
    gaps: np.ndarray  # GAP [..]
    tokens_ps: np.ndarray  # int64 [P, G]
    seqs_ps: np.ndarray  # int64 [P, G]
    # a row a pool, then one a pool whose steps with chunks differ (`mixed_row`), P' in all
    decode_ps: np.ndarray  # int64 [P', M+1, K], at the knot
    decode_slope: np.ndarray  # int64 [P', M+1, K], per cached token of all decoders together
    prefill_ps: np.ndarray  # int64 [P, G, K]
    prefill_slope: np.ndarray  # int64 [P, G, K], per token before the chunk
    knots_ctx: np.ndarray  # int64 [P, K], mean cached tokens a decoder
    knots_past: np.ndarray  # int64 [P, K]
    order_params: np.ndarray  # float64, the knobs of each policy
    admit_params: np.ndarray
    batch_params: np.ndarray
    preempt_params: np.ndarray
    route_params: np.ndarray
    turn_params: np.ndarray
    route_memory: np.ndarray  # int64 [8 + R], the router's own
    route_rng: np.ndarray  # uint64 [1]
    place_params: np.ndarray
    place_memory: np.ndarray
    fetch_params: np.ndarray
    speculate_params: np.ndarray
    draft_seed: np.ndarray  # uint64 [1], of the draws whether a proposed token is right
    draft_level: np.ndarray  # int64 [P, D+1], tokens proposed at each depth (1 without a tree)
    draft_nodes: np.ndarray  # int64 [P, D+1], those up to a depth
    draft_shape: np.ndarray  # float64 [P, D+1], chance at a depth relative to the request's own
    draft_alpha: np.ndarray  # float64 [P, ..], the requests' own chances: quantiles
    draft_ps: np.ndarray  # int64 [D+1], what a step would take at each depth, as quoted last
    drafting: np.ndarray  # int64 [D+2], requests drafted for at each depth, as counted last
    gate_params: np.ndarray
    gate_memory: np.ndarray  # int64 [8 + 2 * tenants]


_I8, _I4, _F8, _U8 = np.dtype("i8"), np.dtype("i4"), np.dtype("f8"), np.dtype("u8")

#: dtype and rank of each field of State, in its order
LAYOUT: dict[str, tuple[np.dtype, int]] = {
    "clock": (CLOCK, 1),
    "arrivals": (ARRIVAL, 1),
    "pending": (ARRIVAL, 1),
    "wanted": (ARRIVAL, 1),
    "calls": (CALL, 1),
    "successors": (SUCCESSOR, 1),
    "flows": (FLOW, 1),
    "timers": (TIMER, 1),
    "live": (LIVE, 1),
    "replicas": (REPLICA, 1),
    "totals": (TOTALS, 1),
    "engines": (ENGINE, 1),
    "serves": (_I8, 2),
    "parked": (_I8, 2),
    "n_parked": (_I8, 2),
    "resident": (_I8, 2),
    "loads": (LOADS, 1),
    "queued": (_I8, 2),
    "load": (_I8, 2),
    "offered": (_I8, 1),
    "offered_of": (_I8, 1),
    "moving": (_I8, 1),
    "ports": (PORT, 1),
    "hashes": (_I8, 1),
    "stores": (STORE, 1),
    "kept": (KEPT, 1),
    "idle": (_I8, 1),
    "to_fetch": (_I8, 2),
    "offer": (OFFER, 1),
    "buckets": (_I8, 1),
    "commands": (COMMAND, 1),
    "agenda": (_I8, 1),
    "agenda_ps": (_I8, 1),
    "residue": (_I4, 2),
    "last_step": (_I8, 2),
    "last_member": (_I8, 2),
    "fresh": (_I8, 2),
    "gap_step": (_I8, 2),
    "gap_ps": (_I8, 2),
    "done": (DONE, 1),
    "leaps": (LEAP, 1),
    "gaps": (GAP, 1),
    "tokens_ps": (_I8, 2),
    "seqs_ps": (_I8, 2),
    "decode_ps": (_I8, 3),
    "decode_slope": (_I8, 3),
    "prefill_ps": (_I8, 3),
    "prefill_slope": (_I8, 3),
    "knots_ctx": (_I8, 2),
    "knots_past": (_I8, 2),
    "order_params": (_F8, 1),
    "admit_params": (_F8, 1),
    "batch_params": (_F8, 1),
    "preempt_params": (_F8, 1),
    "route_params": (_F8, 1),
    "turn_params": (_F8, 1),
    "route_memory": (_I8, 1),
    "route_rng": (_U8, 1),
    "place_params": (_F8, 1),
    "place_memory": (_I8, 1),
    "fetch_params": (_F8, 1),
    "speculate_params": (_F8, 1),
    "draft_seed": (_U8, 1),
    "draft_level": (_I8, 2),
    "draft_nodes": (_I8, 2),
    "draft_shape": (_F8, 2),
    "draft_alpha": (_F8, 2),
    "draft_ps": (_I8, 1),
    "drafting": (_I8, 1),
    "gate_params": (_F8, 1),
    "gate_memory": (_I8, 1),
}
assert tuple(LAYOUT) == State._fields


def rows(n, dtype):
    """An array of records whose fields read as attributes, compiled or not."""
    return np.zeros(n, dtype).view(np.recarray)


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
    links = ("queue", "run_head", "run_tail", "chunk_head", "chunk_tail")
    for link in (*links, "ready_head", "ready_tail"):
        replicas[link] = -1
    replicas.accepts = 1
    replicas.next_pool = pool_of_replica
    return replicas
