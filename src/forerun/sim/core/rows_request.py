"""Row types of requests: on their way to the router, and from there to their last token."""

from __future__ import annotations

import numpy as np

#: a request on its way to the router; narrow, for a workload is a table of them
ARRIVAL = np.dtype(
    [
        ("request", "i8"),
        ("arrival_ps", "i8"),  # sent by the client
        ("ready_ps", "i8"),  # past the API server and the tokenizer
        ("deadline_ps", "i8"),  # absolute; NEVER when none
        ("session", "i8"),  # -1 when none
        ("hash_at", "i8"),  # its prompt's blocks in `hashes`
        ("acceptance", "f8"),  # chance that a token proposed for it is right; -1: as its pool says
        ("n_hash", "i4"),
        ("isl", "i4"),
        ("osl", "i4"),
        ("workflow", "i4"),  # a row of `flows`; -1 when none
        ("priority", "i4"),
        ("tenant", "i4"),
        ("model", "i4"),  # that it asks for ...
        ("adapter", "i4"),  # ... and the adapter; -1 when none
        ("region", "i4"),  # its client's
        ("on_way", "i4"),  # 1 + the slot of a request that was sent to a replica far away, or 0
        ("n_items", "i4"),  # images, pairs of frames, stretches of audio in its prompt ...
        ("item_units", "i4"),  # ... what the encoder computes for each ...
        ("item_tokens", "i4"),  # ... tokens of the prompt that come of it ...
        ("item_at", "i4"),  # ... and the first of them in `items`
        ("most_kept", "i4"),  # its own caps: of KV tokens in memory ...
        ("most_read", "i4"),  # ... and of those that decoding reads; NO_CAP
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
        ("path_ps", "i8"),  # service on the longest path of calls before it ...
        ("ran_ps", "i8"),  # ... and its own
        (
            "left_calls",
            "i8",
        ),  # on the longest path from it to the end, itself included ...
        ("left_tokens", "i8"),  # ... and the most tokens on one
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
FLOW = np.dtype([("n_left", "i8"), ("start_ps", "i8"), ("ran_ps", "i8")], align=True)

#: what the response cache in front makes of a request, by its number
ASK = np.dtype(
    [
        ("wording", "i8"),  # its text; -1: it goes past the cache
        ("lookup_ps", "i8"),  # that it takes to look
        ("got", "i8"),  # the request whose answer it got; -1 when none
        ("n_asked", "i8"),  # times that it looked
        ("n_missed", "i8"),  # of them with a right answer kept that it did not get
        ("n_explored", "i8"),  # of them with an answer kept, computed to learn if it were right:
        ("doubted", "i8"),  # that answer's question until this is known, else -1 ...
        ("similarity", "f8"),  # ... and how alike its text was
    ],
    align=True,
)

#: phases of a live request.  FETCHING: it holds blocks that its KV is on the way to, and no seat;
#: READY: the KV is there, and it joins at the next boundary at which a seat is free; HELD: no
#: replica takes requests, and it waits in front of the router; ON_WAY: to a replica far away;
#: SHOWING: it is denoised, and its latents become pixels.
WAITING, COMPUTING, DECODING, FETCHING, READY, HELD, ON_WAY, SHOWING = 0, 1, 2, 3, 4, 5, 6, 7

#: stages of a live request.  ENCODING: what it has to compute are units of its items, on a pool
#: that encodes; EMBEDDED: their embeddings are still there; PLAIN: what it computes are tokens.
PLAIN, ENCODING, EMBEDDED = 0, 1, 2

#: a request between router and last token; policies see this record
LIVE = np.dtype(
    [
        ("request", "i8"),
        ("arrival_ps", "i8"),
        ("isl", "i8"),
        ("osl", "i8"),  # its true length: a policy that reads it is an oracle
        ("n_out", "i8"),  # tokens produced, up to date when it joins or leaves the decoders
        ("n_known", "i8"),  # prompt and produced tokens; what is computed chases this
        ("n_computed", "i8"),  # in the KV cache, up to date when it joins or leaves the decoders
        ("n_blocks", "i8"),  # held, without those that decoding adds
        ("key", "i8"),  # place in the queue, from the order policy
        ("child", "i8"),  # queue links
        ("sibling", "i8"),
        ("phase", "i8"),
        ("aborted", "i8"),
        ("n_items", "i8"),  # as in ARRIVAL
        ("stage", "i8"),
        ("prev", "i8"),  # running list, in order of admission
        ("next", "i8"),
        ("chunk_next", "i8"),  # list of requests that compute more than one token
        ("chunk", "i8"),  # tokens of its chunk in each step of the present leap
        ("joined", "i8"),  # its replica's decode step count when it joined the decoders
        ("place", "i8"),  # in the heap of last steps, or of those at which it stops growing
        ("keeps", "i8"),  # most cached tokens that it has in memory ...
        ("reads", "i8"),  # ... and that its decoding reads, both as of when it joined the decoders
        ("picks", "i8"),  # 1: it picks them out of what it keeps, which takes time
        ("most_kept", "i8"),  # its own caps, its engine's being the most that they can be
        ("last_token_ps", "i8"),  # when it joined the decoders or left them
        ("max_itl_ps", "i8"),
        ("first_token_ps", "i8"),
        ("scheduled_ps", "i8"),
        ("admitted", "i8"),  # running number of its admission to this replica
        ("replica", "i8"),
        ("pool", "i8"),
        ("model", "i8"),
        ("adapter", "i8"),  # -1 when none
        ("n_preempt", "i8"),
        ("n_shared", "i8"),  # of them in the store of its replica, held
        ("source", "i8"),  # replica that computed its KV and still holds it; -1 when none
        ("deadline_ps", "i8"),
        ("session", "i8"),
        ("region", "i8"),
        ("priority", "i8"),
        ("tenant", "i8"),
        ("most_read", "i8"),
        ("recomputed", "i8"),
        ("hash_at", "i8"),  # its prompt's blocks in `hashes` ...
        ("n_hash", "i8"),  # ... whole ones only
        ("cached", "i8"),
        ("n_left", "i8"),  # blocks held there for it alone ...
        ("n_left_shared", "i8"),  # ... and prefix blocks in the store there
        ("aside", "i8"),  # 1: it waits apart for its adapter ...
        ("aside_ps", "i8"),  # ... since then
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
        ("first_by_ps", "i8"),  # when its first token is due by its class; NEVER when not said
        ("attained_ps", "i8"),  # service of its workflow's requests that had ended when it came ...
        ("path_ps", "i8"),  # ... and on the longest path of those that it waited for
        ("left_calls", "i8"),  # requests on the longest path from it to the end, itself included
        ("left_tokens", "i8"),  # the most tokens on one: a policy that reads it is an oracle
        ("served", "i8"),  # its tenant, when an order policy is asked again: see core/fair.py
        ("charged", "i8"),  # 1: its prompt has been counted
        ("rate", "f8"),  # of its transfer, bytes a picosecond
        ("to_move", "f8"),  # bytes still to be moved ...
        ("moved_ps", "i8"),  # ... at this time, later than now while latency passes
        ("move_end_ps", "i8"),
        ("move_from", "i8"),  # ports
        ("move_to", "i8"),
        ("item_units", "i8"),  # as in ARRIVAL; this and what follows only where n_items > 0
        ("item_tokens", "i8"),
        ("n_encoded", "i8"),  # the first so many of its items are encoded, or need not be
        ("encoding", "i8"),  # items of it in the encoder's step under way
        ("item_at", "i8"),
    ],
    align=True,
)
