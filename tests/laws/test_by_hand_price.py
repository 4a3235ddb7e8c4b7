"""What a step takes, added up on paper from tables of whole seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import both_ways, plain, pool, prompts, serve
from serving import PS, served, simulate

from forerun.cost.table import CostTable, Work, grid
from forerun.sim.tiers import Tier
from forerun.spec.deployment import Policy


def seconds(max_tokens=64, max_seqs=8, **more):
    """1 s a token; 0.25 s a cached token of a decoder, 2 s a new token of a chunk and 0.5 s for
    each token before the chunk; sampling is free.  Knots at 0, 10 and 1000 cached tokens."""
    tokens, seqs = grid(max_tokens).astype(float), grid(max_seqs).astype(float)
    n, knots = np.arange(max_seqs + 1)[:, None], np.array([0, 10, 1000])
    chunk = np.where(tokens[:, None] > 0, 2.0 * tokens[:, None] + 0.5 * knots, 0.0)
    time = Work(tokens=tokens, seqs=seqs * 0, decode=n * knots * 0.25, prefill=chunk)
    costs = CostTable(
        max_tokens=max_tokens, max_seqs=max_seqs, knots_ctx=knots, knots_past=knots, time_s=time,
        flop=time, hbm_bytes=time, link_bytes=time, energy_j=time, idle_w=0.0, host_step_s=0.0,
        host_seq_s=0.0, n_devices=1, peak_flop_per_s=1.0, peak_hbm_bytes_per_s=1.0, low=1.0,
        high=1.0, sources={},
    )  # fmt: skip
    return replace(costs, **more)


def steps_s(requests, costs, *, n_blocks=10_000, **engine):
    """How long each step takes; the same where they are leapt over."""
    out = []
    for leap in (False, True):
        log = simulate(requests, served(costs, n_blocks=n_blocks, **engine), leap=leap)
        lasts = [
            (row["first_ps"] + k * row["slope_ps"]) / PS
            for row in log.leaps
            for k in range(row["n_steps"])
        ]
        out.append(lasts)
    assert out[0] == out[1]
    return out[0]


# -- chunks ----------------------------------------------------------------------------------------


def test_chunks_of_one_step_add_up():
    """3 + 4 tokens: 7 s, and 2 * 3 + 2 * 4."""
    assert steps_s(plain([0, 0], isl=np.array([3, 4]), osl=1), seconds()) == [7 + 6 + 8]


def test_chunks_may_count_as_one_of_the_root_of_their_squares():
    """3 and 4 tokens are a chunk of 5, times 1.5: 7 + 1.5 * 2 * 5 s.  One alone is what it is."""
    vidur = seconds(mixed_prefill="root_sum_square", mixed_factor=1.5)
    assert steps_s(plain([0, 0], isl=np.array([3, 4]), osl=1), vidur) == [7 + 15]
    assert steps_s(plain([0], isl=3, osl=1), vidur) == [3 + 6]


@pytest.mark.parametrize(("isl", "root"), [((2, 2), 3), ((2, 4), 4), ((1, 5), 5), ((5, 6), 8)])
def test_the_root_of_squares_is_the_nearest_whole_number(isl, root):
    """Of 8, 20, 26 and 61: 2.83, 4.47, 5.10 and 7.81."""
    vidur = seconds(mixed_prefill="root_sum_square")
    assert steps_s(plain([0, 0], isl=np.array(isl), osl=1), vidur) == [sum(isl) + 2 * root]


def test_chunks_that_count_as_one_stand_after_the_tokens_before_all_of_them():
    """Steps of 7 tokens.  Prompts of 3 and 20: 3 + 4, then the second goes on alone after 4 and 11
    (0.5 s each).  The third comes during the step before last, of 7: then 2 of the second, after
    18, and 4 of the third are one chunk of 4 (4.47) after 18."""
    vidur = seconds(mixed_prefill="root_sum_square")
    requests = plain([0, 0, 41], isl=np.array([3, 20, 4]), osl=1)
    steps = [7 + 2 * 5, 7 + 14 + 2, 7 + 14 + 5.5, 6 + 2 * 4 + 9]
    assert steps_s(requests, vidur, max_num_batched_tokens=7, max_num_seqs=4) == steps


def test_a_lone_chunk_grows_over_a_knot_of_what_stands_before_it():
    """Chunks of 4 tokens after 0, 4, 8, .. ones: beyond 10 these take 3 s each, not 0.5."""
    at = np.array([0, 10, 1000])
    tokens = np.arange(65)[:, None]
    bent = np.where(tokens > 0, 2.0 * tokens + 0.5 * at + 2.5 * np.maximum(at - 10, 0), 0.0)
    costs = seconds()
    costs = replace(costs, time_s=replace(costs.time_s, prefill=bent))
    want = [4 + 8 + (0.5 * p if p <= 10 else 5 + 3 * (p - 10)) for p in range(0, 24, 4)]
    small = {"max_num_batched_tokens": 4, "max_num_seqs": 4}
    assert steps_s(plain([0], isl=24, osl=1), costs, **small) == want


# -- chunks beside decoders ------------------------------------------------------------------------


def beside(costs):
    """The step of a prompt of 3 that comes while another of 8 decodes its second token."""
    return steps_s(plain([0, 25], isl=np.array([8, 3]), osl=np.array([3, 1])), costs)


def test_a_chunk_beside_a_decoder_is_priced_by_itself():
    """8 + 16 s; a step of 1 + 0.25 * 8; then 1 + 3 tokens, 9 cached and a chunk of 3."""
    assert beside(seconds()) == [24, 3, 4 + 2.25 + 6]


def test_decoders_beside_a_chunk_may_take_another_table_and_more_for_each_of_its_tokens():
    """In the last step a cached token takes 1 s, and 0.125 s are added for a decoder and 3."""
    n, knots = np.arange(9)[:, None], np.array([0, 10, 1000])
    mixed = seconds(mixed_decode=n * knots * 1.0, mixed_cross_s=0.125)
    assert beside(mixed) == [24, 3, 4 + 9 + 0.375 + 6]


# -- the host --------------------------------------------------------------------------------------


def test_a_step_with_a_chunk_takes_at_least_as_long_as_its_launch_and_the_host_comes_after_it():
    """At least 30 s with a chunk; the host adds 5 s a step, 0.5 s a sequence that is sampled."""
    host = seconds(eager_s=30.0, host_step_s=5.0, host_seq_s=0.5)
    requests = plain([0], isl=np.array([8]), osl=np.array([2]))
    assert steps_s(requests, host) == [30 + 5.5, 1 + 2 + 5.5]
    assert steps_s(replace(requests, isl=np.array([16])), host) == [48 + 5.5, 1 + 4 + 5.5]


# -- decoders --------------------------------------------------------------------------------------


def test_a_decoder_grows_over_a_knot_of_what_is_cached():
    """Up to 10 cached tokens 0.25 s each, beyond that 1.25 s; two take it by their mean."""
    n, at = np.arange(9)[:, None], np.array([0, 10, 1000])
    costs = seconds()
    bent = n * (0.25 * at + np.maximum(at - 10, 0))
    costs = replace(costs, time_s=replace(costs.time_s, decode=bent))
    alone = [1 + 0.25 * c + max(0, c - 10) for c in range(8, 14)]
    assert steps_s(plain([0], isl=8, osl=7), costs)[1:] == alone
    two = [2 + 2 * (0.25 * c + max(0, c - 10)) for c in (7.5, 8.5, 9.5, 10.5, 11.5)]
    assert steps_s(plain([0, 0], isl=np.array([7, 8]), osl=6), costs)[1:] == two


def test_between_points_of_the_grid_a_step_takes_what_lies_on_the_line():
    """Beyond 2048 tokens a point each 128: 2048 takes 100 s, 2176 228 s, 2304 484 s."""
    costs = seconds(max_tokens=2304)
    tokens = np.where(grid(2304) <= 2048, 100.0, np.where(grid(2304) == 2176, 228.0, 484.0))
    tokens[0] = 0.0
    nothing = costs.time_s.prefill * 0
    costs = replace(costs, time_s=replace(costs.time_s, tokens=tokens, prefill=nothing))
    for isl, takes in ((2047, 100), (2048, 100), (2049, 101), (2176, 228), (2300, 228 + 2 * 124)):
        assert steps_s(plain([0], isl=isl, osl=1), costs) == [takes]


# -- what is found ---------------------------------------------------------------------------------


def test_of_a_prompt_that_is_found_in_part_the_rest_is_computed_after_it():
    """33 tokens take 33 + 66 s.  When 32 of them are found, one is left: 1 + 2 s, and 16 for those
    before it; of a prompt of 60 that begins alike 28 are: 28 + 56 + 16 s."""
    same = [1, 2, 3, 4]
    requests = replace(
        prompts(same, same, [*same, 5, 6, 7], at=[0, 500, 1000], osl=1), isl=np.array([33, 33, 60])
    )
    log = both_ways(serve, requests, [pool(costs=seconds(), n_blocks=99)]).log_so_far()
    assert log.requests["cached"].tolist() == [0, 32, 32]
    rows = log.requests
    assert ((rows["done_ps"] - rows["scheduled_ps"]) / PS).tolist() == [99, 19, 100]
    assert log.leaps["past"].tolist() == [0, 32, 32]


def test_what_comes_from_a_tier_or_from_where_it_was_computed_is_not_computed_again():
    """24 of 32 tokens come up: 8 + 16 s, and 12 for those before.  Where answers are apart, the
    prompt is computed once (32 + 64 s), and two steps of the answer are 1 + 8 and 1 + 8.25 s."""
    shared = Tier("pool", 1e6, 4e6, 1e-4, shared_by="fleet", write="through")
    costs, same = seconds(), [1, 2, 3, 4]
    log = serve(
        prompts(same, same, at=[0, 1000], osl=1), [pool(costs=costs, n_blocks=99)], tiers=[shared],
        fetch=Policy(name="always"), commands=[(500.0, "fail", 0), (600.0, "open", 0)],
    ).log_so_far()  # fmt: skip
    rows = log.requests
    assert ((rows["done_ps"] - rows["scheduled_ps"]) / PS).tolist() == [96, 36]
    split = [pool("prefill", "p", costs=costs), pool("decode", "d", costs=costs)]
    log = both_ways(serve, plain([0], isl=32, osl=3), split).log_so_far()
    assert log.requests["first_token_ps"][0] == 96 * PS
    away = 17 * PS // 1000  # 32 kB at 2 MB/s after 1 ms
    assert log.requests["done_ps"][0] == 96 * PS + away + int(18.25 * PS)
    assert log.requests["away_ps"][0] == away


def test_who_is_preempted_computes_all_it_knew_again():
    """Two prompts of 8 in 4 of 5 blocks: 16 + 32 s; both want a third block and the second goes.
    The first answers in steps of 1 + 0.25 s a cached token: 3, 3.25, 3.5, and ends.  The second
    knows 9 tokens then: 9 + 18 s, and two steps more after 9 and 10."""
    requests = plain([0, 0], isl=8, osl=4)
    log = both_ways(serve, requests, [pool(costs=seconds(), n_blocks=5)]).log_so_far()
    first = 48 + 3 + 3.25 + 3.5
    assert (log.requests["done_ps"] / PS).tolist() == [first, first + 27 + 3.25 + 3.5]
    assert log.requests["recomputed"].tolist() == [0, 8]
