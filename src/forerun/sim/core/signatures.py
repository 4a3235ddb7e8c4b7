"""The signature of each kind of policy, and what a policy may read.

A policy is a plain function.  It gets records and arrays and returns a choice; ties are broken by
the lowest index.  `params` are its knobs (float64, in the order its module lists them).

    order(request, now_ps, params) -> int                 smaller is served first; asked once, when
                                                          the request reaches its replica, or again
                                                          and again, see below
    admit(request, replica, engine, params) -> int        1: may start now if memory allows
    batch(replica, engine, params) -> (decode, tokens, whole, admissions)
    preempt(request, params) -> int                       the largest loses its blocks first
    route(request, load, params, memory, rng) -> int      a column of `load`: a replica
    place(request, load, params, memory, rng) -> int      the same, for a request whose prompt has
                                                          been computed by another replica
    fetch(request, engine, offer, params) -> int          how many of the blocks offered are moved;
                                                          the rest is computed
    speculate(request, replica, engine, step_ps, params) -> int
                                                          tokens proposed for a decoding request in
                                                          this step, 0 to engine.draft_most
    gate(request, load, now_ps, params, memory) -> int    1: let in, 0: turned away at the front
    tune(replica, engine, params) -> (tokens, step_ps)    tuning tokens that the next step may take,
                                                          if it then lasts no longer than step_ps
    turn(replica, engine, model, queued, now_ps, params) -> int
                                                          the model that runs next: `model`, which
                                                          is loaded, or one that requests wait for

`batch` shapes the next step: `decode` is NO, YES or IF_NO_PREFILL; at most `tokens` prompt tokens
are computed, prompts only as a whole when `whole` is 1; at most `admissions` requests join.  It may
read what changes only when somebody starts or ends (n_running, n_decode, n_chunks); a policy that
reads n_waiting, ctx, past, n_blocks or a time says `EVERY_STEP = True` in its module, and is asked
at every step.

An `order` policy that says `AGAIN = True` is asked whenever a request may start, for the first
request of each tenant: within a tenant they are served as they came.  `request.served` is then what
the tenant has been served by the replica: millionths of a token, prompt tokens times the knob
`input` and tokens of answers times `output`, over the tenant's weight.  Knobs `shared` (1: by the
fleet) and `lift` (0: who comes back has saved up).  One that orders two tenants other than by a
difference that grows steadily with their counters says `EVERY_STEP = True` too.

`speculate` is asked for every decoding request each time a step is formed, in the order of their
admission; what does not fit the step's tokens, the free memory or the answer is cut off.  With
`PRICED = True`, `step_ps[k]` is what decoding would take in the step, in picoseconds, if k tokens
were proposed for every decoding request: at 0 a step without prompts, and more as proposals add to
one with the prompt tokens that wait.  Otherwise `step_ps` is all zero.  While all
answers are 0 it is asked again at the next event only, or with `EVERY_STEP = True` at every step.

`request` is a LIVE record, `replica` a REPLICA record, `engine` an ENGINE record (state.py).
`offer` is an OFFER record: consecutive blocks of the prompt that a tier below the replica's memory
keeps; with fewer than `offer.n_blocks` taken, later ones are not offered.
`turn` is asked at step boundaries while requests wait for models that are not loaded; once it says
another one, the replica drains and loads that.  `queued` is int64 [fields, models]: QUEUED, HEAD_PS
and LOAD_PS below.  It may read what `batch` may, and n_waiting; one that reads the time says
`EVERY_STEP = True`.
`load` is int64 [fields, replicas]: its rows are the constants below, so that
`load[OUTSTANDING].argmin()` is the least loaded.  It has the columns of those replicas that take
the request (a gate sees all); `load[REPLICA]` says which they are.  `memory` is int64, the policy's
own, zero at the start: MEMORY words and one for each replica; for a gate MEMORY words and two for
each tenant, from GATE_OF_TENANT on.  `rng` is a stream for `rng.uniform` and `rng.integer`.
"""

from __future__ import annotations

from functools import cache

from forerun.sim.core import rows_fleet, rows_kept, rows_request

# rows of `load`
OUTSTANDING = 0  # requests routed and not done
WAITING_REQUESTS = 1  # of them not running
RUNNING = 2
OUTSTANDING_TOKENS = 3  # prompt tokens not computed yet, as of the replica's last event
KV_BLOCKS = (
    4  # in use, as of the replica's last event (as of now when the policy says FRESH = True)
)
KV_CAPACITY = 5
POOL = 6
SPEED = 7  # relative to the fastest pool, in thousandths
REPLICA = 8
CACHED = 9  # tokens of this prompt that it keeps (when the policy says CACHED_WANTED = True)
TO_LOAD = 10  # picoseconds of loading before it can run the request's model (several models only)
# in a fleet of several regions:
WAY_PS = 11  # picoseconds from the request's client to it; for `place` from where its KV is
PRICE = 12  # millionths of a dollar that it takes an hour
CARBON = 13  # milligrams of CO2 equivalent that a kWh of its grid stands for
LOAD_FIELDS = 14

# rows of `queued`
QUEUED = 0  # requests that wait for the model at this replica
HEAD_PS = 1  # when the first of them was sent; NEVER when none waits
LOAD_PS = 2  # picoseconds to load it from where it is kept; 0 when its weights are there
QUEUED_FIELDS = 3

NO_LIMIT = (1 << 63) - 1  # a step of a `tune` policy may last as long as it takes

MEMORY = 8
GATE_OF_TENANT = MEMORY  # memory[GATE_OF_TENANT + 2 * request.tenant] and the one after it

# values of `decode`
NO, YES, IF_NO_PREFILL = 0, 1, 2

KINDS = (
    "order", "admit", "batch", "preempt", "route", "place", "fetch", "speculate", "gate", "turn",
    "tune",
)  # fmt: skip


@cache
def numba_signatures():
    """The numba signature of each kind (imports numba)."""
    from numba import from_dtype, types

    records = (rows_request.LIVE, rows_fleet.REPLICA, rows_fleet.ENGINE, rows_kept.OFFER)
    request, replica, engine, offer = (from_dtype(d) for d in records)
    i8, params = types.int64, types.Array(types.float64, 1, "C")
    load = types.Array(i8, 2, "C")
    memory, rng = types.Array(i8, 1, "C"), types.Array(types.uint64, 1, "C")
    return {
        "order": i8(request, i8, params),
        "admit": i8(request, replica, engine, params),
        "batch": types.UniTuple(i8, 4)(replica, engine, params),
        "preempt": i8(request, params),
        "route": i8(request, load, params, memory, rng),
        "place": i8(request, load, params, memory, rng),
        "fetch": i8(request, engine, offer, params),
        "speculate": i8(request, replica, engine, memory, params),
        "gate": i8(request, load, i8, params, memory),
        "turn": i8(replica, engine, i8, load, i8, params),
        "tune": types.UniTuple(i8, 2)(replica, engine, params),
    }
