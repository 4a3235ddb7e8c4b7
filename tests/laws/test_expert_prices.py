"""Laws of what experts cost: rows by load, experts on the host, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from routed import windows_of

from forerun import catalog
from forerun.errors import Infeasible, SpecError
from forerun.sim.moe import offload, routing
from forerun.sim.prepare import prepare
from forerun.spec.deployment import Deployment, Pool
from forerun.spec.moe import Offload, Routing

# -- priced --------------------------------------------------------------------------------------

MODEL = "qwen3-30b-a3b"


def priced(moe, **changed):
    usual = {"device": "h100-sxm", "dp": 4, "ep": 4, "engine": {"max_num_batched_tokens": 1024}}
    pool = Pool(**(usual | changed), moe=moe)
    return prepare(catalog.model(MODEL), Deployment(pools=(pool,)), span_s=600)


def test_uniform_routing_prices_exactly_as_without():
    plain = priced(None)
    for moe in ({}, {"placement": "round_robin"}, {"offload": {"in_hbm": 1.0}}):
        found = priced(moe)
        assert len(found) == 1
        assert (found[0].n_blocks, found[0].max_len) == (plain[0].n_blocks, plain[0].max_len)
        for quantity in ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j"):
            for part in ("tokens", "seqs", "decode", "prefill"):
                a, b = (getattr(getattr(s.table, quantity), part) for s in (found[0], plain[0]))
                np.testing.assert_array_equal(a, b, err_msg=f"{quantity}.{part}")


def test_experts_chosen_alike_are_woken_sooner_and_do_the_same_work():
    usual, alike = (priced(moe)[0].table for moe in ({}, {"distribution": "uniform"}))
    for quantity in ("time_s", "hbm_bytes", "energy_j"):
        usually, then = (getattr(table, quantity).tokens for table in (usual, alike))
        assert then[32] > 1.02 * usually[32], quantity
    np.testing.assert_array_equal(alike.flop.tokens, usual.flop.tokens)
    assert "loads of a device's are power_law_1.2" in " ".join(usual.assumed)
    assert "loads of a device's are uniform" in " ".join(alike.assumed)
    with pytest.raises(ValueError, match="distribution"):
        priced({"distribution": "zipf"})


def test_skew_takes_longer_and_does_the_same_work():
    plain = priced({})[0].table
    slowest = []
    for skew in (0.5, 1.0, 2.0):
        found = priced({"routing": {"kind": "zipf", "skew": skew}})[0].table
        assert (found.time_s.tokens >= plain.time_s.tokens).all()
        assert found.time_s.tokens[512] > plain.time_s.tokens[512]
        np.testing.assert_array_equal(found.flop.tokens, plain.flop.tokens)
        slowest.append(found.time_s.tokens[512])
    assert max(slowest) > 1.02 * plain.time_s.tokens[512]


def test_a_wandering_course_has_rows_that_replicas_take_in_turn():
    routed = {"kind": "zipf", "skew": 0.8, "drift": 1.0, "correlation_s": 60}
    found = priced({"routing": routed, "placement": "balanced", "rebalance_s": 60})
    main, others = found[0], found[1:]
    assert sorted(main.levels) == list(range(len(found)))
    assert len(others) >= 2
    assert all(row.pool.replicas == 0 for row in others)
    assert main.levels[main.course.level(0)] == 0


# -- experts on the host ---------------------------------------------------------------------------


def a_layer(share, **changed):
    usual = dict(topk=4, ep=1, expert_bytes=1e7, expert_flop=1e7, token_bytes=1e4, guess=0.5)
    return offload.Layer(share=share, **(usual | changed))


HOST = offload.Host(2e10, 1e-6, 2e11, 5e12)
T = np.array([0.0, 1, 2, 8, 64, 512])
SHARE = windows_of(Routing(kind="zipf", skew=1.0), 1, n_experts=32)[0][0]


def waited(layer, *, expert_s=1e-4, rest_s=2e-4, **how):
    busy = T > 0
    return offload.wait_s(
        layer, Offload(**how), HOST, T, expert_s=busy * expert_s, rest_s=busy * rest_s
    )  # fmt: skip


@pytest.mark.parametrize("cache", ["lru", "lfu"])
@pytest.mark.parametrize("misses", ["fetch", "cpu", "best"])
def test_more_experts_in_device_memory_never_wait_longer(cache, misses):
    waits = [
        waited(a_layer(SHARE), in_hbm=c, cache=cache, misses=misses, prefetch=2)
        for c in (0.0, 0.1, 0.3, 0.55, 0.9, 1.0)
    ]
    assert (np.diff(waits, axis=0) <= 1e-12).all()
    assert (waits[-1] == 0).all()
    assert (np.array(waits)[:, 0] == 0).all()  # no tokens, no waiting


def test_the_sooner_of_moving_and_computing_is_no_later_than_either():
    kinds = {
        m: waited(a_layer(SHARE), in_hbm=0.3, cache="lfu", misses=m)
        for m in ("fetch", "cpu", "best")
    }
    np.testing.assert_array_equal(kinds["best"], np.minimum(kinds["fetch"], kinds["cpu"]))
    assert kinds["cpu"][1] < kinds["fetch"][1]  # one token: the host's memory is ten links wide


def test_perfect_guesses_hide_all_that_fits_in_the_rest_of_the_layer_and_blind_ones_nothing():
    common = {"in_hbm": 0.3, "cache": "lfu"}
    none = waited(a_layer(SHARE), **common)
    blind = waited(a_layer(SHARE, guess=0.0), prefetch=1, **common)
    np.testing.assert_array_equal(none, blind)
    sure = waited(a_layer(SHARE, guess=1.0), prefetch=1, rest_s=10.0, **common)
    assert (sure == 0).all()
    some = [waited(a_layer(SHARE, guess=g), prefetch=1, **common) for g in (0.0, 0.3, 0.7, 1.0)]
    assert (np.diff(some, axis=0) <= 0).all()
    # by hand at one token, all of it hidden but 2e-4 of rest and 1e-4 of experts
    m = offload.misses(a_layer(SHARE), T, 0.3, "lfu").n_missing[1]
    assert some[-1][1] == pytest.approx(max(0, 1e-6 + m * 5e-4 - min(m * 5e-4, 2e-4) - 1e-4))


def test_steps_want_as_many_experts_as_drawn_ones_do():
    draw = np.random.default_rng(5)
    for n in (1, 8, 64):
        seen = [(routing.counts(SHARE[None], n, 4, draw) > 0).sum() for _ in range(400)]
        assert np.mean(seen) == pytest.approx(
            offload.wanted(SHARE, 4, np.array([n])).sum(), rel=0.03
        )


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_the_hit_ratio_of_lru_is_that_of_a_simulated_cache(n_tokens):
    """Steps drawn one by one through a cache of 12 of 32 experts, least recently used out first."""
    draw = np.random.default_rng(6)
    kept: list[int] = []
    hit = asked = 0
    for step in range(3000):
        wanted = np.flatnonzero(routing.counts(SHARE[None], n_tokens, 4, draw)[0])
        if step > 300:
            asked += len(wanted)
            hit += len(set(kept) & set(wanted.tolist()))
        order = draw.permutation(wanted).tolist()
        kept = ([e for e in kept if e not in set(order)] + order)[-12:]
    found = offload.misses(a_layer(SHARE), np.array([n_tokens]), 12 / 32, "lru")
    told = 1 - found.n_missing[0] / found.n_wanted[0]
    assert told == pytest.approx(hit / asked, abs=0.03)


def test_experts_on_the_host_leave_room_for_the_cache_and_take_time():
    # half of 57 GB of experts on one H100
    whole = priced(None, dp=1, ep=1)[0]
    half = priced({"offload": {"in_hbm": 0.5}}, dp=1, ep=1)[0]
    assert half.n_blocks > 2 * whole.n_blocks
    assert half.table.time_s.tokens[1] > whole.table.time_s.tokens[1]
    assert (np.diff(half.table.time_s.tokens) >= 0).all()


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moe", "said"),
    [
        ({"placement": "balanse"}, "no placement is called balanse"),
        ({"placement": "linear", "rebalance_s": 60}, "nothing would ever move"),
        ({"placement": "balanced", "rebalance_s": 5}, "less than a window"),
        ({"routing": {"kind": "table"}}, "names no file"),
        ({"routing": {"kind": "table", "table": "/no/file.csv"}}, "cannot be read"),
        ({"routing": {"skew": 1}}, "says nothing of uniform"),
        ({"offload": {"host": "h100-sxm"}}, "is no processor"),
        ({"offload": {"host": "epic"}}, "epic"),
        ({"offload": {"tier": "nvme"}}, "how fast the drives are"),
        ({"offload": {"misses": "cpu", "prefetch": 2}}, "fetches nothing"),
    ],
)
def test_a_mistake_is_named_with_its_repair(moe, said):
    with pytest.raises((SpecError, Infeasible), match=said) as error:
        priced(moe)
    assert all(problem.fix for problem in error.value.problems)


def test_a_model_without_experts_is_told_so():
    pool = Pool(device="h100-sxm", moe={})
    with pytest.raises((SpecError, Infeasible), match="has no experts"):
        prepare(catalog.model("llama-3.1-8b"), Deployment(pools=(pool,)))


def test_experts_that_the_host_cannot_hold_are_refused():
    pool = Pool(
        device="h200-sxm", dp=8, ep=8, moe={"offload": {"in_hbm": 0.1, "host": "ryzen-ai-max-395"}}
    )
    with pytest.raises((SpecError, Infeasible), match="GB of experts are outside"):
        prepare(catalog.model("deepseek-v3"), Deployment(pools=(pool,)))


def test_a_table_must_have_the_shape_of_the_model(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("1,2,3\n")
    with pytest.raises(SpecError, match="1 lines of 3 weights"):
        priced({"routing": {"kind": "table", "table": str(path)}})
    path.write_text(",".join(["1"] * 128) + "\n")
    assert priced({"routing": {"kind": "table", "table": str(path)}})[0].course.level(0) == 0
