"""Row types of what a run writes: requests that ended, leaps of steps, longest gaps, sums."""

from __future__ import annotations

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
        ("depth", "i4"),  # most tokens in a row proposed for one request: passes of the draft; of
        # ControlNets in a step that denoises: how many computed in it
        ("draft_tokens", "i4"),  # that the draft (or they) computed in these passes, all together
        ("n_adapters", "i4"),  # different ones in each step ...
        ("n_adapted", "i4"),  # ... and tokens computed with one
        ("n_tuned", "i8"),  # tokens of a fine-tuning in each step, not in n_tokens
        ("scored", "i8"),  # tokens at the first step out of which decoders pick what they read
        ("n_scored", "i4"),  # how many more in each step
        ("n_picking", "i4"),  # decoders that do
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
