"""What the core keeps: row types of its arrays, and the arrays of one run."""

from __future__ import annotations

import numpy as np

#: how a request ended
STATUS = {"finished": 0, "rejected": 1, "aborted": 2, "unfinished": 3}

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
        ("recomputed", "i4"),  # tokens computed again after preemption
        ("max_itl_ps", "i8"),  # longest gap between two of its tokens; 0 with one token
        ("status", "i4"),  # one of STATUS
        ("tag", "i4"),  # the workload's tenant
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
    ],
    align=True,
)

#: `count` requests of a replica whose last token came before the step that gave them the next one
#: began: their gap is longer than the step
GAP = np.dtype([("end_ps", "i8"), ("gap_ps", "i8"), ("replica", "i4"), ("count", "i4")], align=True)

#: sums over a replica's life
TOTALS = np.dtype(
    [
        ("busy_ps", "i8"),
        ("n_steps", "i8"),
        ("n_tokens", "i8"),  # computed, recomputed ones included
        ("n_out", "i8"),
        ("n_done", "i8"),
        ("n_preempt", "i8"),
        ("peak_blocks", "i8"),
        ("peak_running", "i8"),
    ],
    align=True,
)
