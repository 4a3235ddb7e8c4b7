"""Laws of requests that are denoised: images and videos, step by step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, assert_adapters, assert_same_adapters, fitted, naming
from control import drive
from denoising import asked_for, denoiser, denoising_fleets
from fleets import assert_laws, assert_same, serve, troubles
from serving import PS

from forerun.sim.core.rows_log import STATUS
from forerun.spec.control import Fault
from forerun.spec.deployment import Policy
from forerun.spec.workload import Client


def of_fleets(seed, **how):
    """Every fleet with requests that it takes."""
    for name, pools in denoising_fleets().items():
        text = any(one.pool.role == "encode" or one.encoder >= 0 for one in pools)
        yield name, pools, asked_for(seed, 50, text=text, ties=seed % 2 == 0, **how)


def shown(log):
    return 0 if log.encodes is None else int(log.encodes["n_shown"].sum())


@pytest.mark.parametrize("route", ["least_outstanding", "round_robin", "power_of_two"])
def test_a_leap_equals_stepping_while_images_are_denoised(route):
    for seed in range(4):
        for _, pools, requests in of_fleets(seed):
            leapt, stepped = (
                serve(requests, pools, leap=leap, seed=3, route=Policy(name=route))
                for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_same(log, stepped.log_so_far())
            assert (log.requests["status"] == 0).all()
            assert len(log.leaps) < len(stepped.log_so_far().leaps)


def test_a_leap_equals_stepping_whatever_happens_to_a_fleet_that_denoises():
    retried = 0
    for seed in range(6):
        for _, pools, requests in of_fleets(seed):
            commands = [c for c in troubles(seed, pools) if c[1] not in ("switch", "move")]
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            log = assert_laws(leapt, requests)
            assert_same(log, stepped.log_so_far())
            retried += log.requests["n_retries"].sum()
            assert (log.requests["status"] == 0).all()
    assert retried > 30


def test_impatient_clients_and_second_copies_leave_nothing_behind():
    client = Client(give_up_s=0.15, retries=1, retry_on=("timeout",), backoff_s=0.01, hedge_s=0.1)
    gone = 0
    for seed in range(3):
        for _, pools, requests in of_fleets(seed, rate=200.0):
            leapt, stepped = (
                serve(requests, pools, leap=leap, seed=3, client=client) for leap in (True, False)
            )
            assert_same(leapt.log_so_far(), stepped.log_so_far())
            state = leapt._state
            assert not state.replicas.n_running.any()
            assert not state.replicas.n_blocks.any()
            assert (state.replicas.show_head == -1).all()
            assert not state.load[:4].any()
            gone += (leapt.log_so_far().requests["status"] != 0).sum()
    assert gone > 30


def test_stragglers_slow_every_stage():
    slow = Fault(
        effect="slow", process=Policy(name="listed"), at_s=(0.1,), mttr_s=0.6, factor=3,
        pool="d", replicas=(0,),
    )  # fmt: skip
    for name, pools, requests in of_fleets(1):
        if name == "text apart":
            continue
        plain = serve(requests, pools, seed=3).log_so_far()
        found = [
            drive(requests, pools, faults=(slow,), seed=3, leap=leap) for leap in (True, False)
        ]
        logs = [one.log() for one in found]
        assert_same(*logs)
        names = {found[0].server.pools[p].pool.name for p in np.unique(logs[0].leaps["pool"])}
        behind = {"d x 3"} | ({"pixels x 3"} if "pixels" in name else set())
        assert behind <= names, (name, names)
        assert logs[0].replicas["busy_ps"].sum() > plain.replicas["busy_ps"].sum(), name


def test_a_request_has_all_its_steps_at_the_price_of_all_its_tokens():
    pools = denoising_fleets()["text and pixels"]
    requests = asked_for(1, 1)
    requests = replace(requests, arrival_s=np.zeros(1), isl=np.array([60]), osl=np.array([7]))
    row = serve(requests, pools).log_so_far().requests[0]
    costs = pools[0].table
    step = costs.time_s.tokens[60] + costs.time_s.prefill[60, 0] + costs.time_s.seqs[1]
    step += costs.host_step_s + costs.host_seq_s
    n, units = int(requests.n_items[0]), int(requests.item_units[0])
    text = pools[1].table.time_s
    before = text.tokens[n * units] + n * text.prefill[units, 0]
    after = pools[2].table.time_s.prefill[60, 0] + pools[2].table.host_step_s
    assert abs(row["done_ps"] - round((before + 7 * step + after) * PS)) < 20
    assert abs(row["first_token_ps"] - round((before + step) * PS)) < 5


def test_requests_of_two_sizes_in_a_batch_pay_for_their_own_attention():
    pools = [denoiser()]
    two = asked_for(1, 2, text=False)
    two = replace(
        two, arrival_s=np.zeros(2), isl=np.array([110, 24]), osl=np.array([5, 5]), priority=None
    )
    log = serve(two, pools).log_so_far()
    costs = pools[0].table
    step = costs.time_s.tokens[134] + costs.time_s.prefill[110, 0] + costs.time_s.prefill[24, 0]
    step += costs.time_s.seqs[2] + costs.host_step_s + 2 * costs.host_seq_s
    assert abs(log.end_ps - round(5 * step * PS)) < 20
    assert (log.leaps["n_tokens"] == 134).all()


def test_a_step_never_has_more_tokens_than_its_budget_and_memory_never_grows():
    for seed in range(3):
        for _, pools, requests in of_fleets(seed, rate=400.0):
            log = serve(requests, pools, seed=3).log_so_far()
            rows = log.leaps[
                np.isin(log.leaps["pool"], [p for p, o in enumerate(pools) if o.denoises])
            ]
            assert (rows["n_tokens"] <= 200).all()
            assert rows["n_decode"].max() > 1
            assert (rows["slope_ps"] == 0).all()
            assert (log.requests["n_preempt"] == 0).all()


def test_every_image_is_shown_once():
    for name, pools, requests in of_fleets(2):
        log = serve(requests, pools, seed=3).log_so_far()
        expected = len(requests) if any(one.shows >= 0 for one in pools) else 0
        assert shown(log) == expected, name
        if expected:
            assert log.encodes["shown_tokens"].sum() == requests.isl.sum()


def test_the_same_seed_gives_the_same_bytes():
    for _, pools, requests in of_fleets(3):
        a, b = (serve(requests, pools, seed=3).log_so_far() for _ in range(2))
        assert a.leaps.tobytes() == b.leaps.tobytes()
        assert a.requests.tobytes() == b.requests.tobytes()


def test_rows_that_denoise_change_nothing_for_text():
    from fleets import fleets, sharing

    requests = sharing(5, 60, isl=60)
    extra = denoising_fleets()["pixels"]
    for pools in fleets().values():
        plain = serve(requests, pools, seed=3).log_so_far()
        n = len(pools)
        rows = [
            replace(
                one, model=1, shows=n + 1 if one.shows >= 0 else -1,
                pool=one.pool.model_copy(update={"name": f"other {k}"}),
            )
            for k, one in enumerate(extra)
        ]  # fmt: skip
        beside = serve(requests, [*pools, *rows], seed=3).log_so_far()
        np.testing.assert_array_equal(beside.requests, plain.requests)
        np.testing.assert_array_equal(beside.leaps, plain.leaps)


# -- with adapters (LoRA) --------------------------------------------------------------------------

EARLY = {f"{name}, {early * 1e3:.0f} ms early": {**how, "early_s": early}
         for name, how in WAYS.items() for early in (0.0, 15e-3, 60e-3)}  # fmt: skip


@pytest.mark.parametrize("way", EARLY)
def test_a_leap_equals_stepping_with_adapters_that_come_while_images_are_denoised(way):
    for seed in range(2):
        for _, pools, requests in of_fleets(seed):
            pools, requests = fitted(pools, **EARLY[way]), naming(requests, seed=seed)
            commands = [c for c in troubles(seed, pools) if c[1] not in ("switch", "move")]
            leapt, stepped = (
                serve(requests, pools, commands=commands, leap=leap, seed=3)
                for leap in (True, False)
            )
            assert_laws(leapt, requests)
            log = assert_adapters(leapt, pools)
            assert_same_adapters(log, stepped.log_so_far())
            own = leapt._state.engines[leapt._state.engines.denoises == 1]
            room = own.n_blocks - own.watermark - own.adapter_room
            too_long = requests.isl > (room * own.block_tokens).max()
            assert (log.requests["status"] == np.where(too_long, STATUS["rejected"], 0)).all()


def test_requests_that_begin_without_their_adapter_have_it_within_the_steps_they_may():
    pools = fitted([denoiser()], early_s=60e-3)
    requests = replace(
        asked_for(1, 1, text=False), arrival_s=np.zeros(1), isl=np.array([60]), osl=np.array([20]),
        adapter=np.array([1]),
    )  # fmt: skip
    late = fitted([denoiser()])
    begun, waited = (serve(requests, p).log_so_far() for p in (pools, late))
    ready_ps = round(16e-3 * PS)  # rank 16, a millisecond each
    assert begun.requests["scheduled_ps"][0] == 0
    assert waited.requests["scheduled_ps"][0] == ready_ps
    plain = begun.leaps[begun.leaps["n_adapters"] == 0]
    after = begun.leaps[begun.leaps["n_adapters"] == 1]
    assert plain["n_steps"].sum() + after["n_steps"].sum() == 20
    assert after["start_ps"][0] >= ready_ps > after["start_ps"][0] - plain["first_ps"].max()
    assert (after["n_adapted"] == 60).all()
    assert begun.requests["done_ps"][0] < waited.requests["done_ps"][0]


def test_nobody_names_an_adapter_and_the_log_is_that_of_the_model_alone():
    for _, pools, requests in of_fleets(4):
        none = replace(requests, adapter=np.full(len(requests), -1))
        plain = serve(requests, pools, seed=3).log_so_far()
        beside = serve(none, fitted(pools, early_s=1e-2), seed=3).log_so_far()
        np.testing.assert_array_equal(plain.requests, beside.requests)
        np.testing.assert_array_equal(plain.leaps, beside.leaps)
