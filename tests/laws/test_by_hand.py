"""Small cases whose outcome is known by hand: rules of the core that random fleets seldom show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, fleets, pool, prompts, serve, sharing
from serving import PS, served, simulate, table

from forerun.sim.serve import Server
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests


def test_a_prefix_that_another_holds_takes_no_memory_of_its_own():
    """The first holds 10 of 14 blocks; the second shares 6 of its 8, so both run together."""
    same = [1, 2, 3, 4]
    log = serve(prompts(same, same, at=[0, 0.01]), [pool(n_blocks=14)]).log_so_far()
    first, second = log.requests
    assert second["cached"] == 24
    assert second["scheduled_ps"] < first["done_ps"]


@pytest.mark.parametrize("later_s", [0.0, 2e-3])
def test_who_finds_no_seat_has_no_kv_brought_up(later_s):
    """Of two whose KV is below, with one seat, the second is fetched for when the first is done,
    also when it comes while the first is on its way up (6 ms)."""
    tier = Tier("dram", 160e3, 4e6, 1e-4)
    first, second = [1, 2, 3, 4], [5, 6, 7, 8]
    rows = [first, second, [9, 10, 11, 12], [13, 14, 15, 16], first, second]
    requests = prompts(*rows, at=[0, 1, 2, 3, 4, 4 + later_s])
    one_seat = [pool(n_blocks=20, max_num_seqs=1)]
    log = serve(requests, one_seat, tiers=[tier], fetch=Policy(name="always")).log_so_far()
    before, last = log.requests[4:]
    assert before["cached"] == last["cached"] == 24
    assert last["scheduled_ps"] > before["done_ps"] + PS // 10_000  # one latency after, at least


def test_a_prompt_of_many_chunks_is_priced_by_its_cached_tokens_at_every_knot():
    """One long prompt alone: its leaps end at the knots of the cost table, and before its end."""
    long = Requests(np.zeros(1), np.array([300]), np.array([2]))
    chunks = served(table(), n_blocks=200, max_num_batched_tokens=16)
    logs = [simulate(long, chunks, leap=leap) for leap in (True, False)]
    assert logs[0].requests["done_ps"][0] == logs[1].requests["done_ps"][0]


def test_a_chunk_that_the_device_hides_under_its_launch_grows_step_by_step():
    """`eager`: a step with a prompt takes at least so long, until what it reads takes longer."""
    long = Requests(np.zeros(1), np.array([400]), np.array([2]))
    eager = served(table(eager=4e-3), n_blocks=200, max_num_batched_tokens=16)
    logs = [simulate(long, eager, leap=leap) for leap in (True, False)]
    assert logs[0].requests["done_ps"][0] == logs[1].requests["done_ps"][0]
    steps = logs[1].leaps["first_ps"]
    assert steps.min() < steps.max()  # the device takes over in between


@pytest.mark.parametrize("keeps", [24, 40])
def test_a_step_never_reads_more_past_than_is_kept(keeps):
    capped = [pool(prefix_caching=False, kept_tokens=keeps, max_num_batched_tokens=16)]
    log = serve(Requests(np.zeros(3), np.full(3, 90), np.full(3, 20)), capped).log_so_far()
    assert log.leaps["past"].max() > keeps // 2
    assert (log.leaps["past"] <= keeps * log.leaps["n_chunks"]).all()


def test_a_prompt_that_grows_beside_kv_on_its_way_out_stays_within_memory():
    """12 of 20 blocks wait for a slow link, so the second prompt has room for 2 of its 4 chunks."""
    slow = {"bytes_per_s": 1e4, "prefix_caching": False, "max_num_batched_tokens": 16}
    slow["costs"] = table(knots=(0, 500, 1000))  # so that all four are one leap, but for the room
    split = [pool("prefill", "p", n_blocks=20, **slow), pool("decode", "d", **slow)]
    requests = Requests(np.array([0.0, 0.1]), np.array([48, 64]), np.array([4, 4]))
    leapt = both_ways(serve, requests, split)
    log = assert_laws(leapt, requests)
    assert log.replicas["peak_blocks"][0] == 20


@pytest.mark.parametrize("kind", fleets())
def test_the_last_step_of_a_leap_is_the_step_that_stepping_logs(kind):
    """Blocks, tokens and sequences of a leap's row are those of its last step."""
    compared = 0
    for seed in range(3):
        requests = sharing(seed, 40, isl=90)
        engine = {"max_num_batched_tokens": 24, "prefix_caching": seed > 0}
        small = [
            replace(
                one,
                pool=one.pool.model_copy(
                    update={"engine": one.pool.engine.model_copy(update=engine)}
                ),
            )
            for one in fleets()[kind]
        ]
        rows = []
        for leap in (True, False):
            leaps = serve(requests, small, leap=leap).log_so_far().leaps
            n = leaps["n_steps"]
            end = leaps["start_ps"] + n * leaps["first_ps"]
            end += leaps["slope_ps"] * (n * (n - 1) // 2)
            rows.append(dict(zip(zip(leaps["replica"], end, strict=True), leaps, strict=True)))
        for at, row in rows[0].items():
            for name in ("n_blocks", "n_tokens", "n_seqs", "n_decode", "n_chunks", "chunk"):
                assert row[name] == rows[1][at][name], name
            compared += row["n_steps"] > 1
    assert compared > 50


def test_a_transfer_goes_on_at_half_its_rate_from_when_another_joins_its_port():
    """Each prompt is 32 kB; ports carry 2 MB/s, a transfer begins to move after 1 ms."""
    two = [pool("prefill", "p", replicas=2), pool("decode", "d")]
    requests = Requests(np.array([0.0, 0.008]), np.full(2, 32), np.full(2, 8))
    log = serve(requests, two, route=Policy(name="round_robin")).log_so_far()
    began, joined = log.requests["first_token_ps"]
    alone = 2e6 * (joined - began - PS // 1000) / PS
    assert 1000 < alone < 31_000  # the second joins it on its way
    done = joined + (32_000 - alone) / 1e6 * PS
    decode = log.leaps[log.leaps["replica"] == 2]
    assert abs(decode["start_ps"][0] - done) <= 2


def test_all_layers_but_the_last_leave_while_a_long_prompt_is_computed():
    """Over a link faster than the prompt, one layer of four is left: 8 of 32 kB."""
    fast = {"stream_kv": True, "bytes_per_s": 1e8}
    split = [pool("prefill", "p", **fast), pool("decode", "d", **fast)]
    log = serve(Requests(np.zeros(1), np.array([32]), np.array([8])), split).log_so_far()
    left_ps = round(8_000 / 1e8 * PS) + PS // 1000
    start = log.leaps[log.leaps["replica"] == 1]["start_ps"][0]
    assert abs(start - log.requests["first_token_ps"][0] - left_ps) <= 2


def test_two_transfers_out_of_one_port_each_take_twice_as_long():
    split = [pool("prefill", "p"), pool("decode", "d", replicas=2)]
    requests = Requests(np.zeros(2), np.full(2, 32), np.full(2, 8))
    log = serve(requests, split, place=Policy(name="round_robin")).log_so_far()
    first = log.requests["first_token_ps"]
    assert first[0] == first[1]  # one step computes both prompts
    for i in (1, 2):
        start = log.leaps["start_ps"][log.leaps["replica"] == i][0]
        assert start == first[0] + 33 * PS // 1000


@pytest.mark.parametrize("seed", range(3))
def test_a_tier_never_keeps_more_than_it_holds_at_any_moment(seed):
    """Blocks and swapped KV together, looked at between events; memory is short, so much is sent
    down."""
    engine = {"preemption": "swap", "n_blocks": 24}
    requests = sharing(seed, 50, isl=60, ties=True, rate=80)
    server = Server(
        [pool(replicas=2, **engine)], n_requests=50, hash_tokens=8, fetch=Policy(name="always"),
        tiers=[Tier("dram", 120e3, 4e6, 1e-4)],
    )  # fmt: skip
    server.inject(requests)
    swapped = 0
    for moment in np.linspace(0, 3, 400):
        server.advance(float(moment))
        below = server._state.stores[2:]
        assert (below["n_kept"] + below["n_swapped"] <= below["n_rows"]).all()
        swapped = max(swapped, int(below["n_swapped"].max()))
    assert swapped > 3


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_a_prompt_of_many_chunks_can_be_found_from_the_chunk_that_completes_them(seed):
    """Prompts of up to 25 chunks, and routers that look at any moment what is there."""
    requests = sharing(seed, 30, isl=200, roots=2, rate=60)
    pools = [pool(replicas=2, n_blocks=120, max_num_batched_tokens=16)]
    leapt = both_ways(serve, requests, pools, route=Policy(name="prefix_aware"))
    log = assert_laws(leapt, requests)
    assert log.requests["cached"].sum() > 100


def test_who_starts_again_is_computed_whole_where_a_step_has_room_for_it():
    """Prompts of 8 and 60, the second after the first; a failure when 5 and 4 tokens are out makes
    them 13 and 64, which is a whole step: it waits until nobody decodes."""
    requests = Requests(np.zeros(2), np.array([8, 60]), np.full(2, 20))
    whole = [pool(batch=Policy(name="whole"))]
    sixth = serve(requests, whole, leap=False).log_so_far().leaps["start_ps"][5]
    at = (int(sixth) + 1) / PS
    commands = [(at, "fail", 0), (at + 1, "open", 0)]
    log = serve(requests, whole, commands=commands).log_so_far()
    assert log.leaps["chunk"][log.leaps["chunk"] > 0].tolist() == [8, 60, 13, 64]
    assert log.requests["recomputed"].tolist() == [8 + 4, 60 + 3]
    assert log.requests["scheduled_ps"][1] > 0
