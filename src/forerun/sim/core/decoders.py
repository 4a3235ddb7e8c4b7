"""Those who decode on a replica: joining, what changes for them between steps, leaving, and the
longest gap between two tokens of each.

Legend: i replica, r slot of `live`, t picoseconds.
"""

from __future__ import annotations

from forerun.sim.core import adapters, caps, fair, heaps, speculate
from forerun.sim.core.jit import jit
from forerun.sim.core.kv import FULL, blocks_for, kept
from forerun.sim.core.rows_request import DECODING


@jit
def join_decoders(state, i, r):
    """r has its prompt computed and a token out; from the next decode step on it decodes."""
    replica = state.replicas[i]
    request = state.live[r]
    b = state.engines[replica.pool].block_tokens
    engine = state.engines[replica.pool]
    request.phase = DECODING
    request.joined = replica.decoded
    request.keeps = kept(state, i, r)
    request.reads = min(min(engine.reads, request.most_read), request.keeps)
    request.picks = engine.picks if request.reads < request.keeps else 0
    caps.await_change(state, i, r, replica.n_decode, replica.decoded)
    if request.n_computed < request.keeps:
        state.residue[i, (request.n_computed - replica.decoded) % b] += 1
        replica.n_taking += 1
    if request.n_computed < request.reads:
        replica.n_reading += 1
    replica.ctx += min(request.n_computed, request.reads)
    if request.n_computed >= request.reads:
        caps.pick(state, i, request, request.n_computed, 1)
    replica.n_decode += 1
    if state.clock[0].fair == 1:
        fair.count_decoder(state, i, request.tenant, 1)
    state.fresh[i, replica.n_fresh] = r
    replica.n_fresh += 1
    if request.adapter >= 0:
        adapters.decode(state, i, request.adapter, 1)


@jit
def leave_decoders(state, i, r):
    """Bring r up to date and take it out of the decoders; its blocks stay with it."""
    replica = state.replicas[i]
    request = state.live[r]
    engine = state.engines[replica.pool]
    b = engine.block_tokens
    if request.draft > 0:
        speculate.drop(state, i, r)
    steps = replica.decoded - request.joined
    cached = request.n_computed + steps
    if cached < request.keeps:
        state.residue[i, (request.n_computed - request.joined) % b] -= 1
        replica.n_taking -= 1
    if cached < request.reads:
        replica.n_reading -= 1
    else:
        caps.pick(state, i, request, cached, -1)
    heaps.drop_finish(state.last_step[i], state.last_member[i], state.live, replica.n_decode, r)
    replica.n_decode -= 1
    if request.adapter >= 0:
        adapters.decode(state, i, request.adapter, -1)
    if state.clock[0].fair == 1:
        fair.count_decoder(state, i, request.tenant, -1)
    if steps > 0:
        # its first decode step ended a gap of its own, see settle_gaps
        longest = longest_gap(state, i, request.joined + 2)
        request.max_itl_ps = max(request.max_itl_ps, longest)
        request.last_token_ps = replica.decoded_ps
    else:
        for f in range(replica.n_fresh):
            if state.fresh[i, f] == r:
                replica.n_fresh -= 1
                state.fresh[i, f] = state.fresh[i, replica.n_fresh]
                break
    request.n_out += steps
    request.n_computed += steps
    replica.ctx -= min(request.n_computed, request.reads)
    if engine.reserve != FULL:
        kept = min(request.n_computed, request.keeps)
        request.n_blocks = max(request.n_blocks, blocks_for(kept, b))


@jit
def note_gap(state, i, step, gap_ps):
    """Remember that the decode step number `step` of replica i ended a gap of gap_ps."""
    replica = state.replicas[i]
    n = replica.n_gaps
    while n > 0 and state.gap_ps[i, n - 1] <= gap_ps:
        n -= 1
    state.gap_step[i, n] = step
    state.gap_ps[i, n] = gap_ps
    replica.n_gaps = n + 1


@jit
def longest_gap(state, i, step):
    """The longest gap that a decode step numbered `step` or later has ended; 0 when none."""
    low = 0
    high = state.replicas[i].n_gaps
    while low < high:
        middle = (low + high) // 2
        if state.gap_step[i, middle] < step:
            low = middle + 1
        else:
            high = middle
    if low == state.replicas[i].n_gaps:
        return 0
    return state.gap_ps[i, low]


@jit
def forget_old_gaps(state, i):
    """Make room in the stack of replica i: drop what no running request can still ask for."""
    replica = state.replicas[i]
    if replica.n_gaps < state.gap_ps.shape[1] - 2:
        return True
    oldest = replica.decoded
    r = replica.run_head
    while r >= 0:
        if state.live[r].phase == DECODING and state.live[r].joined < oldest:
            oldest = state.live[r].joined
        r = state.live[r].next
    keep = 0
    while keep < replica.n_gaps and state.gap_step[i, keep] <= oldest + 1:
        keep += 1
    if keep > 0:
        for n in range(keep, replica.n_gaps):
            state.gap_step[i, n - keep] = state.gap_step[i, n]
            state.gap_ps[i, n - keep] = state.gap_ps[i, n]
        replica.n_gaps -= keep
    return replica.n_gaps < state.gap_ps.shape[1] - 2
