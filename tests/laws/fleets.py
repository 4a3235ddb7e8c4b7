"""Small fleets for the laws of the core: roles, links, prompts that share what they begin with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from serving import served, table, token_times, workload

from forerun.sim.log import Log
from forerun.sim.serve import Server
from forerun.spec.requests import Requests


def pool(role="both", name="main", *, bytes_per_s=2e6, latency_s=1e-3, **engine):
    """A pool of a role whose replicas send 1,000 bytes of KV a token."""
    stream = engine.pop("stream_kv", False)
    one = served(**engine)
    return replace(
        one,
        pool=one.pool.model_copy(update={"role": role, "name": name, "stream_kv": stream}),
        kv_token_bytes=1000.0,
        n_layers=4,
        port_bytes_per_s=bytes_per_s,
        port_latency_s=latency_s,
    )


def fleets(slow=4e-3):
    """One pool, prompts apart from answers, prompts sent on to a pool that does all, two speeds."""
    return {
        "one": [pool(replicas=3, n_blocks=30)],
        "split": [
            pool("prefill", "p", replicas=2, n_blocks=26),
            pool("decode", "d", replicas=2, n_blocks=30),
        ],
        "mixed": [
            pool("prefill", "p", replicas=2, n_blocks=26, prefix_caching=False),
            pool("both", "d", replicas=2, n_blocks=30),
        ],
        "unequal": [
            pool(replicas=3, n_blocks=30),
            pool("both", "slow", costs=table(flat=slow), n_blocks=26),
        ],
    }


def sharing(seed, n, *, block=8, roots=4, **settings):
    """Requests whose prompts begin like one of `roots` others, each for a part of its length."""
    requests = workload(seed, n, **settings)
    draw = np.random.default_rng(seed + 99)
    hashes, starts = [], [0]
    for i in range(n):
        n_blocks = int(requests.isl[i]) // block + 1
        root, shared = int(draw.integers(0, roots)), int(draw.integers(0, n_blocks + 1))
        hashes += [root * 1000 + b for b in range(shared)]
        hashes += [(i + 1) * 100_000 + b for b in range(shared, n_blocks)]
        starts.append(len(hashes))
    return replace(
        requests,
        block_hashes=np.array(hashes, dtype=np.int64),
        block_starts=np.array(starts),
        hash_tokens=block,
    )


def plain(at, *, isl=32, osl=2, **columns):
    """Requests at these moments, all alike where a length is one number."""
    n = len(at)
    return Requests(
        np.asarray(at, dtype=float),
        np.broadcast_to(isl, n).copy(),
        np.broadcast_to(osl, n).copy(),
        **columns,
    )


def prompts(*rows, at, isl=32, osl=8):
    """Requests at these moments; their prompts' blocks of 8 tokens."""
    n = len(rows)
    flat = np.array([h for row in rows for h in row], dtype=np.int64)
    starts = np.cumsum([0, *(len(row) for row in rows)])
    return Requests(
        np.asarray(at, dtype=float), np.full(n, isl), np.full(n, osl),
        block_hashes=flat, block_starts=starts, hash_tokens=8,
    )  # fmt: skip


def serve(requests, pools, *, commands=(), **settings):
    """The server after all requests and commands."""
    server = Server(pools, n_requests=len(requests), hash_tokens=requests.hash_tokens, **settings)
    for command in commands:
        server.command(*command)
    server.inject(requests)
    server.advance()
    return server


VERBS = ("open", "close", "fail", "switch", "move")


def troubles(seed, pools, n=12, until_s=1.6, verbs=VERBS, values=None):
    """Random commands, after which every replica opens again.  values : by verb, 0 for others."""
    draw = np.random.default_rng(seed)
    n_replicas = sum(one.pool.replicas for one in pools)
    out = []
    for _ in range(n):
        time_s, i = float(draw.uniform(0, until_s)), int(draw.integers(0, n_replicas))
        verb = str(draw.choice(verbs))
        said = values or {"move": 2, "switch": int(draw.integers(0, len(pools)))}
        out.append((time_s, verb, i, said.get(verb, 0)))
    return [*out, *((until_s + 1, "open", i, 0) for i in range(n_replicas))]


def assert_same(a, b):
    """Two logs tell the same of every request, replica and gap between tokens."""
    for name in a.requests.dtype.names:
        np.testing.assert_array_equal(a.requests[name], b.requests[name], err_msg=name)
    for name in a.replicas.dtype.names:
        np.testing.assert_array_equal(a.replicas[name], b.replicas[name], err_msg=name)
    assert token_times(a) == token_times(b)


def both_ways(run, *args, **settings):
    """What `run` gives when steps are leapt over; step by step, all that is told is the same.

    run : gives a Log or what has one (a Server, a Control), and takes `leap`.
    """
    leapt, stepped = (run(*args, leap=leap, **settings) for leap in (True, False))
    assert_tells_the_same(leapt, stepped)
    return leapt


def assert_tells_the_same(one, other):
    """Two runs (a Log or what has one) tell the same of all that does not depend on leaps."""
    a, b = log_of(one), log_of(other)
    assert_same(a, b)
    assert a.end_ps == b.end_ps
    assert a.meta == b.meta
    for name in ("loads", "encodes", "tuned", "spans"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    if a.fitted is not None:
        assert_fields_same(a.fitted, b.fitted, but={"rounds"})
    if a.netted is not None:
        np.testing.assert_array_equal(a.netted, b.netted)
    if a.branched is not None:
        np.testing.assert_array_equal(a.branched, b.branched)
    if a.answered is not None:
        assert a.answered.asks.tobytes() == b.answered.asks.tobytes()
        assert a.answered.shelves.tobytes() == b.answered.shelves.tobytes()
    if a is one:
        return
    kept, also = state_of(one), state_of(other)
    np.testing.assert_array_equal(kept.lines, also.lines)
    np.testing.assert_array_equal(kept.lanes["alone_ps"], also.lanes["alone_ps"])
    assert_fields_same(kept.ports, also.ports)
    assert_fields_same(kept.stores, also.stores, but={"n_idle"})
    for name in ("path_ps", "ran_ps"):
        np.testing.assert_array_equal(kept.calls[name], also.calls[name], err_msg=name)


def log_of(ran):
    """The log of a Control, of a Server, or itself."""
    if isinstance(ran, Log):
        return ran
    return ran.log_so_far() if isinstance(ran, Server) else ran.log()


def state_of(ran):
    return ran._state if isinstance(ran, Server) else ran.server._state


def assert_fields_same(a, b, but=frozenset()):
    for name in set(a.dtype.names) - set(but):
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_laws(server, requests, *, all_sent=True):
    """Conservation, causality and capacity at the end of a run.

    all_sent : False when some requests may never be sent, because others do not end.
    """
    log, state = server.log_so_far(), server._state
    rows = log.requests
    if all_sent or log.n_unfinished == 0:
        assert rows["request"].tolist() == list(range(len(requests)))
    assert len(np.unique(rows["request"])) == len(rows)
    given = rows[(rows["status"] == 0) & (rows["replica"] < 0)]  # by the response cache
    assert (given["arrival_ps"] <= given["first_token_ps"]).all()
    assert (given["first_token_ps"] <= given["done_ps"]).all()
    done = rows[(rows["status"] == 0) & (rows["replica"] >= 0)]
    np.testing.assert_array_equal(done["n_out"], done["osl"])
    assert (done["arrival_ps"] <= done["scheduled_ps"]).all()
    assert (done["scheduled_ps"] < done["first_token_ps"]).all()
    assert (done["first_token_ps"] <= done["done_ps"]).all()
    assert (done["cached"] < done["isl"]).all()
    if (state.replicas.pool == server.pool_of_replica).all():  # else its memory has changed
        capacity = state.engines.n_blocks[state.replicas.pool]
        assert (log.replicas["peak_blocks"] <= capacity).all()
    clients = log.meta.get("clients", {})
    # without clients only steps of denoising are lost and done again
    wasted_out = clients.get("wasted_output_tokens", state.clock[0].wasted_out)
    assert log.replicas["n_out"].sum() == (rows["n_out"].sum() - given["n_out"].sum() + wasted_out)
    computed = (done["isl"] + done["osl"] - 1 - done["cached"] + done["recomputed"]).sum()
    engines = state.engines
    steps = done[np.isin(done["model"], engines.model[engines.denoises == 1])]
    computed += ((steps["isl"] - 1) * (steps["osl"] - 1)).sum()  # all tokens in every step
    computed += clients.get("wasted_tokens", 0)
    if len(done) + len(given) == len(rows):
        rejected = (log.replicas["n_drafted"] - log.replicas["n_extra"]).sum()
        encoded = state.encodes.n_units.sum()
        assert log.replicas["n_tokens"].sum() == computed + rejected + encoded
        extra = log.replicas["n_extra"].sum() - rows["n_extra"].sum()
        assert extra == 0 or 0 < extra < wasted_out  # of copies that were dropped
        assert not state.replicas.n_blocks.any()
        assert not state.replicas.n_away.any()
        assert not state.load[:4].any()
        assert state.stores.n_idle.tolist() == state.stores.n_kept.tolist()  # nobody holds any
    return log


def assert_steps_like_leaps(requests, pools, **settings):
    """The log of a run that equals that of the same run step by step, and keeps the laws."""
    return assert_laws(both_ways(serve, requests, pools, **{"seed": 3, **settings}), requests)
