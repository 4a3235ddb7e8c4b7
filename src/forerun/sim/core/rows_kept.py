"""Row types of what is kept for requests that come later: prefix blocks, adapters, embeddings,
answers."""

from __future__ import annotations

import numpy as np

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
        ("prev", "i8"),  # in the list of idle blocks; with fifo and lfu its place in `idle`
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

#: an adapter
ADAPTER = np.dtype([("rank", "i8"), ("bytes", "f8")], align=True)

#: when an adapter in the blocks of the KV cache leaves: as soon as nobody runs with it or waits for
#: it, or when room is needed, before idle prefix blocks or after them
LEAVES = {"at_once": 0, "adapters": 1, "prefixes": 2}

#: an adapter at a replica
SLOT = np.dtype(
    [
        ("held", "i8"),  # 1: it has a slot ...
        ("ready_ps", "i8"),  # ... and is there from now on
        ("used", "i8"),  # tick at which it was fetched, or the last one let go of it
        ("host", "i8"),  # the same on the host; 0 when it is not there
        ("n_using", "i8"),  # requests that run with it, or whose KV comes
        ("n_waiting", "i8"),
        ("n_decoding", "i8"),
        ("seen", "i8"),  # round of pricing in which it was counted
        ("blocks", "i8"),  # that it takes of the KV cache
    ],
    align=True,
)

#: the adapters of a replica, all together
FITTED = np.dtype(
    [
        ("n_held", "i8"),
        ("n_host", "i8"),
        ("n_active", "i8"),  # different ones that requests run with
        ("free_ps", "i8"),  # when the last one on its way is there
        ("in_step_ps", "i8"),  # loading that the next step does before it computes
        ("ticks", "i8"),
        ("rounds", "i8"),
        ("n_decode", "i8"),  # requests that decode with one ...
        ("decode_ranks", "i8"),  # ... the sum of their ranks ...
        ("n_distinct", "i8"),  # ... the different ones among them ...
        ("distinct_ranks", "i8"),  # ... and the sum of theirs
        ("n_asked", "i8"),  # requests that came with one
        ("n_there", "i8"),  # of them to a replica that had it
        ("n_loads", "i8"),
        ("n_far", "i8"),  # of them from beyond the host
        ("n_evicted", "i8"),
        ("load_ps", "i8"),
        ("wait_ps", "i8"),  # of requests that stood apart
        ("bytes", "f8"),
        ("idle_blocks", "i8"),  # of adapters that nobody runs with, in the KV cache
        ("most_held", "i8"),
        ("n_draft", "i8"),  # tokens proposed for requests with one, in the step under way ...
        ("draft_ranks", "i8"),  # ... and the sum of their ranks
    ],
    align=True,
)

#: a cache of embeddings
ALBUM = np.dtype(
    [
        ("most_bytes", "i8"),
        ("n_bytes", "i8"),
        ("peak_bytes", "i8"),
        ("n", "i8"),  # embeddings kept
        ("n_evicted", "i8"),
        ("oldest", "i8"),  # linked by use
        ("newest", "i8"),
        ("shared", "i8"),  # 1: of the fleet, else of one replica
        ("bytes_per_ps", "f8"),  # by which it is read; 0: where it is needed
        ("latency_ps", "i8"),
        ("free_ps", "i8"),  # when the last reading has its bytes
    ],
    align=True,
)

#: an item in a cache of embeddings; n_bytes is 0 where it is not kept
PICTURE = np.dtype([("n_bytes", "i8"), ("prev", "i8"), ("next", "i8")], align=True)

#: a text that requests can have: what it asks, and which texts are like it
TEXT = np.dtype(
    [("question", "i8"), ("shelf", "i8"), ("near_at", "i8"), ("n_near", "i8")], align=True
)

#: an answer that is kept, by text and model
ANSWER = np.dtype(
    [
        ("request", "i8"),  # to which it was given; -1 when none is kept
        ("question", "i8"),  # of its text, and model
        ("since_ps", "i8"),
        ("n_tokens", "i8"),
        ("n_bytes", "i8"),
    ],
    align=True,
)

#: the answers of one category
SHELF = np.dtype(
    [
        ("threshold", "f8"),  # cosine from which on texts are taken for one another
        ("ttl_ps", "i8"),
        ("most", "i8"),  # answers ...
        ("most_bytes", "i8"),  # ... and bytes
        ("entry_bytes", "i8"),  # of an answer, beside ...
        ("token_bytes", "i8"),  # ... those of each token
        ("n", "i8"),
        ("n_bytes", "i8"),
        ("n_evicted", "i8"),
        ("n_expired", "i8"),
        ("max_error", "f8"),  # of its requests that may get a wrong answer; 0: it does not learn
    ],
    align=True,
)
