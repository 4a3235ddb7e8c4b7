"""ControlNets: branches that some requests of a step of denoising have beside the denoiser.

A branch computes all tokens of the requests that use it, and what it makes of them is added to the
denoiser's at several places, the first of them near its beginning.  On the same devices the step
takes the branches' time as well.  On devices of their own they run at the same time: they get the
latents, send what each of their blocks gives, and the denoiser waits where something is to be added
that has not come.  Nothing of it changes from step to step; but where replicas share such devices
each step waits for what others sent before, and such steps are taken one by one.

Legend: i replica, p row of a branch's costs, k a branch, d one of its devices, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core.jit import jit
from forerun.sim.core.price import lookup, own_ps
from forerun.sim.core.rows_request import DECODING


@jit
def used_by(state, request, decoding):
    """Branches that a request uses in the step, bit k for the k-th."""
    mine = decoding if request.phase == DECODING else min(request.chunk, 1)
    return state.controls[request.request] if mine == 1 else 0


@jit
def all_used(state, i, decoding):
    """Branches that somebody uses in the step."""
    used = 0
    r = state.replicas[i].run_head
    while r >= 0:
        used |= used_by(state, state.live[r], decoding)
        r = state.live[r].next
    return used


@jit
def time_ps(state, i, p, k, decoding):
    """What branch k takes for all its requests of the step; noted for what is told of the run."""
    n = tokens = own = 0
    r = state.replicas[i].run_head
    while r >= 0:
        request = state.live[r]
        if (used_by(state, request, decoding) >> k) & 1:
            n += 1
            tokens += request.isl
            own += own_ps(state, p, request.isl)
        r = request.next
    if n == 0:
        return 0
    state.replicas[i].depth += 1
    state.replicas[i].draft_tokens += tokens
    ps = lookup(state.tokens_ps[p], tokens) + lookup(state.seqs_ps[p], n) + own
    return max(ps, state.engines[p].eager_ps)


@jit
def tokens_of(state, i, which, decoding):
    """Tokens of the requests of the step that use one of some branches."""
    tokens = 0
    r = state.replicas[i].run_head
    while r >= 0:
        if used_by(state, state.live[r], decoding) & which:
            tokens += state.live[r].isl
        r = state.live[r].next
    return tokens


@jit
def price(state, i, decoding, trunk_ps, t):
    """Picoseconds that branches add to the step that replica i is forming at t, whose denoiser
    takes trunk_ps; noted for what is told of the run."""
    replica = state.replicas[i]
    engine = state.engines[replica.pool]
    used = all_used(state, i, decoding)
    if used == 0:
        return 0
    n_devices = max(1, engine.branch_devices)
    sent = 0
    for d in range(engine.branch_devices):
        which = 0
        for k in range(d, engine.n_branches, n_devices):
            which |= used & (1 << k)
        sent += tokens_of(state, i, which, decoding)
    begins_ps = engine.branch_trip_ps + tokens_of(state, i, used, decoding) * engine.latent_ps
    total = added = 0
    for d in range(n_devices):
        busy = 0
        for k in range(d, engine.n_branches, n_devices):
            if (used >> k) & 1:
                busy += time_ps(state, i, engine.branch_row, k, decoding)
        total += busy
        if engine.branch_devices > 0 and busy > 0:
            begins = begins_ps + in_line(state, engine, d, t + begins_ps, busy)
            added = max(added, waits_ps(engine, trunk_ps, busy, begins, sent))
    if engine.branch_devices == 0:
        added = total
    replica.branch_ps, replica.branch_added_ps = total, added
    return added


@jit
def in_line(state, engine, d, t, busy):
    """Picoseconds from t until device d begins with what takes it `busy`: where replicas share it,
    it computes first what was sent to it before."""
    if engine.branch_at < 0:
        return 0
    begins = max(t, state.net_free_ps[engine.branch_at + d])
    state.net_free_ps[engine.branch_at + d] = begins + busy
    return begins - t


@jit
def waits_ps(engine, trunk_ps, busy, begins, sent):
    """How long the denoiser waits for branches on a device of their own.

        ready(j) = begins + max((j + 1) b + s, b + (j + 1) s) + trip   of block j of m, b = busy / m
        due(j)   = trunk (ahead + j each)                              when the denoiser adds it
        wait     = max(0, max over j of ready(j) - due(j))

    The first is convex in j and the second a line, so that the most is at the first block or the
    last.  begins : with the first block, after latents have come.  s : to send what one block
    gives, one device after another.
    """
    m = engine.branch_blocks
    block, send = busy // m, sent * engine.residual_ps
    first = begins + block + send + engine.branch_trip_ps - int(trunk_ps * engine.branch_ahead)
    ready = begins + max(busy + send, block + m * send) + engine.branch_trip_ps
    due = trunk_ps * (engine.branch_ahead + (m - 1) * engine.branch_each)
    return max(0, first, ready - int(due))


@jit
def note(state, i, k):
    """k steps with branches of replica i are over."""
    replica, branched = state.replicas[i], state.branched[i]
    branched.n_steps += k
    branched.busy_ps += k * replica.branch_ps
    branched.added_ps += k * replica.branch_added_ps
