"""Laws of requests with images: encoders in front of the model, and on pools of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control import drive, scaled
from families import asking, fixed
from fleets import (
    assert_laws,
    assert_steps_like_leaps,
    both_ways,
    fleets,
    pool,
    serve,
    sharing,
    troubles,
)
from flows import woven
from seeing import encoder, in_front, looking, seeing_fleets
from serving import PS, table
from speculating import kinds

from forerun.errors import SpecError
from forerun.sim.tiers import Tier
from forerun.spec.control import Fault
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.workload import Client


def disturbed(seed, pools):
    """Random commands; replicas that encode switch to nothing."""
    roles = [one.pool.role for one in pools for _ in range(one.pool.replicas)]
    out = []
    for time_s, verb, i, value in troubles(seed, pools):
        if verb == "switch":
            if roles[i] == "encode":
                continue
            alike = [p for p, one in enumerate(pools) if one.pool.role != "encode"]
            value = alike[value % len(alike)]
        out.append((time_s, verb, i, value))
    return out


@pytest.mark.parametrize("route", ["least_outstanding", "round_robin", "prefix_aware"])
def test_a_leap_equals_stepping_with_images(route):
    for seed in range(4):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in seeing_fleets().values():
            leapt = both_ways(serve, requests, pools, seed=3, route=Policy(name=route))
            log = assert_laws(leapt, requests)
            assert (log.requests["status"] == 0).all()


def test_a_leap_equals_stepping_with_images_whatever_happens_to_the_fleet():
    retried = 0
    for seed in range(6):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in seeing_fleets().values():
            commands = disturbed(seed, pools)
            leapt = both_ways(serve, requests, pools, commands=commands, seed=3)
            log = assert_laws(leapt, requests)
            retried += log.requests["n_retries"].sum()
    assert retried > 30


def test_two_kinds_of_encoders_compute_each_image_once():
    requests = looking(3, 80, isl=60)
    shown = int(requests.n_items.sum())
    units = int((requests.n_items * requests.item_units).sum())
    for name, pools in seeing_fleets().items():
        log = assert_laws(serve(requests, pools, seed=3), requests)
        if name.startswith("in front"):  # images whose tokens are kept as prefixes are not encoded
            assert log.encodes["n_items"].sum() <= shown
        else:
            assert log.encodes["n_items"].sum() == shown
            assert log.encodes["n_units"].sum() == units
    unnamed = replace(requests, block_hashes=None, block_starts=None, hash_tokens=0)
    for name, pools in seeing_fleets().items():
        log = assert_laws(serve(unnamed, pools, seed=3), unnamed)
        assert log.encodes["n_items"].sum() == shown, name
        assert log.encodes["n_units"].sum() == units, name


def test_text_beside_an_encoder_writes_the_log_of_a_fleet_without():
    requests = sharing(5, 60, isl=60)
    for pools in fleets().values():
        for route in ("least_outstanding", "power_of_two", "round_robin"):
            plain = serve(requests, pools, seed=3, route=Policy(name=route)).log_so_far()
            beside = [*pools, encoder(replicas=2)]
            for others in (beside, in_front(pools)):
                log = serve(requests, others, seed=3, route=Policy(name=route)).log_so_far()
                np.testing.assert_array_equal(log.requests, plain.requests)
                np.testing.assert_array_equal(log.leaps, plain.leaps)
                assert log.encodes is None


def test_requests_without_images_write_the_log_of_text():
    requests = sharing(5, 60, isl=60)
    none = np.zeros(len(requests), dtype=np.int64)
    empty = replace(requests, n_items=none, item_units=none, item_tokens=none)
    for pools in seeing_fleets().values():
        plain, same = (serve(r, pools, seed=3).log_so_far() for r in (requests, empty))
        np.testing.assert_array_equal(plain.requests, same.requests)
        np.testing.assert_array_equal(plain.leaps, same.leaps)


def one(n_items=2, units=20, tokens=5, isl=32, osl=3, *, at=0.0):
    """Requests of equal lengths that begin with images."""
    at = np.atleast_1d(np.asarray(at, dtype=float))
    n = len(at)
    columns = {"n_items": n_items, "item_units": units, "item_tokens": tokens}
    return Requests(
        at, np.full(n, isl), np.full(n, osl), **{k: np.full(n, v) for k, v in columns.items()}
    )


def step_ps(units, n, costs):
    """A step of the encoder with n items of so many units each, without host time."""
    work = costs.time_s
    return round((work.tokens[n * units] + n * work.prefill[units, 0]) * PS)


def test_an_encoder_in_front_adds_its_step_to_the_first_token():
    text = serve(replace(one(), n_items=None), in_front([pool()])).log_so_far().requests[0]
    log = serve(one(), in_front([pool()])).log_so_far()
    longer = log.requests[0]["first_token_ps"] - text["first_token_ps"]
    assert abs(longer - step_ps(20, 2, table(64, 8, flat=3e-3))) <= 2
    first = log.leaps[0]
    assert (first["pool"], first["n_tokens"], first["n_chunks"]) == (1, 40, 2)


def test_images_that_a_chunk_does_not_reach_are_encoded_later():
    pools = in_front([pool(max_num_batched_tokens=16)])
    log = serve(one(n_items=4, units=12, tokens=8, isl=40), pools).log_so_far()
    steps = log.leaps[log.leaps["pool"] == 1]
    assert steps["n_chunks"].tolist() == [2, 2]  # 16 tokens reach two images of 8
    order = log.leaps["pool"].tolist()
    assert order[:4] == [1, 0, 1, 0]


def test_embeddings_move_at_the_rate_of_their_link():
    log = serve(one(), [encoder(), pool()]).log_so_far()
    row = log.requests[0]
    # 10 tokens x 1000 B at 2 MB/s is 5 ms, and 1 ms latency
    assert row["away_ps"] == 6 * PS // 1000
    host = round(1e-4 * PS)
    encoded = step_ps(20, 2, table(64, 8, flat=3e-3)) + host
    text = serve(replace(one(), n_items=None), [pool()]).log_so_far().requests[0]
    assert abs(row["first_token_ps"] - encoded - row["away_ps"] - text["first_token_ps"]) <= 2


def test_decoders_do_not_wait_for_images_that_others_encode():
    text = one(isl=8, osl=40)
    late = one(at=[0.02, 0.03, 0.04], n_items=3, isl=40)
    columns = {
        name: np.concatenate([getattr(r, name) for r in (text, late)])
        for name in ("arrival_s", "isl", "osl", "n_items", "item_units", "item_tokens")
    }
    columns["n_items"][0] = 0
    both = Requests(**columns)
    gap = [
        serve(both, pools).log_so_far().requests["max_itl_ps"][0]
        for pools in (in_front([pool()]), [encoder(), pool()])
    ]
    assert gap[1] < 0.7 * gap[0]


def test_images_that_fill_the_encoders_memory_hold_others_back():
    tight = [encoder(n_blocks=16), pool()]  # 64 units: one request of 40 at a time
    log = serve(one(at=np.zeros(4)), tight).log_so_far()
    assert log.replicas["peak_blocks"][0] <= 16
    assert len(np.unique(log.requests["first_token_ps"])) == 4


def test_a_failed_encoder_loses_embeddings_and_they_are_encoded_again():
    slow = [encoder(replicas=2), pool(bytes_per_s=2e4)]
    slow[0] = replace(slow[0], port_bytes_per_s=2e4)
    log = serve(one(), slow, commands=[(0.1, "fail", 0)]).log_so_far()
    row = log.requests[0]
    assert (row["status"], row["n_retries"], row["recomputed"]) == (0, 1, 0)
    assert log.encodes["n_items"].tolist() == [2, 2, 0]


def test_requests_wait_while_nobody_encodes():
    commands = [(0, "close", 0), (0.5, "open", 0)]
    log = serve(one(at=[0.1]), [encoder(), pool()], commands=commands).log_so_far()
    assert log.requests["scheduled_ps"][0] == PS // 2


def test_mistakes_are_sentences():
    with pytest.raises(SpecError, match="nobody computes prompts"):
        serve(one(), [encoder()])
    with pytest.raises(SpecError, match="no pool encodes for"):
        serve(one(), [pool()])
    with pytest.raises(SpecError, match="encoder takes 64 at once"):
        serve(one(units=65), [encoder(), pool()])
    with pytest.raises(SpecError, match="whole prompt, or more"):
        serve(one(isl=10), [encoder(), pool()])
    with pytest.raises(SpecError, match="no network link"):
        serve(one(), [encoder(), pool(bytes_per_s=0)])
    with pytest.raises(SpecError, match="keeps to that"):
        serve(one(), [encoder(), pool()], commands=[(0.1, "switch", 1, 0)])


def test_one_seed_writes_the_same_bytes():
    requests = looking(1, 40, isl=60)
    for pools in seeing_fleets().values():
        a, b = (serve(requests, pools, seed=4).log_so_far() for _ in range(2))
        assert a.requests.tobytes() == b.requests.tobytes()
        assert a.leaps.tobytes() == b.leaps.tobytes()


def test_images_compose_with_clients_workflows_and_failures():
    client = Client(first_token_s=0.15, hedge_s=0.05, retries=2, retry_on=("timeout", "failure"))
    hedged = 0
    for seed in range(4):
        plain = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for requests in (plain, woven(plain, seed)):
            for pools in seeing_fleets().values():
                # no role goes, so that no copy is left waiting for one
                commands = [one for one in disturbed(seed, pools) if one[1] != "switch"]
                log = assert_steps_like_leaps(
                    requests, pools, client=client, commands=commands, seed=3
                )
                hedged += log.meta["clients"]["hedged"]
    assert hedged > 100


@pytest.mark.parametrize(
    ("seed", "name", "route", "patient"),
    [
        (190, "in front of prompts", "prefix_aware", False),  # all who were encoded for gave up
        (271, "encode, prefill, decode", "power_of_two", True),  # KV and images are lost together
        (371, "apart", "power_of_two", True),  # embeddings on the way, and prefix blocks dropped
    ],
)
def test_a_leap_equals_stepping_in_rare_cases(seed, name, route, patient):
    client = Client(first_token_s=0.15, hedge_s=0.05, retries=2, retry_on=("timeout", "failure"))
    requests = looking(seed, 60, isl=60, ties=seed % 2 == 0, share=0.8, most=4)
    pools = seeing_fleets()[name]
    commands = [one for one in disturbed(seed, pools) if one[1] != "switch"]
    assert_steps_like_leaps(
        requests, pools, seed=seed, route=Policy(name=route), commands=commands,
        client=None if patient else client,
    )  # fmt: skip


@pytest.mark.parametrize("kept", ["recompute", "swap"])
def test_images_compose_with_tiers(kept):
    tier = Tier("dram", 160e3, 4e6, 1e-4, shared_by="fleet")
    for seed in range(4):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for pools in seeing_fleets().values():
            tight = []
            for one in pools:
                engine = one.pool.engine.model_copy(update={"preemption": kept})
                if one.pool.role != "encode":
                    own = one.pool.model_copy(update={"engine": engine})
                    one = replace(one, pool=own, n_blocks=32)
                tight.append(one)
            assert_steps_like_leaps(
                requests, tight, tiers=[tier], fetch=Policy(name="faster"), seed=3
            )


def test_images_compose_with_models_on_pools_of_their_own():
    for seed in range(3):
        requests = asking(looking(seed, 60, isl=60), 2, seed)
        pools = [
            fixed(0, replicas=2),
            fixed(1),
            encoder(),
            replace(encoder(name="e1", flat=5e-3), model=1),
        ]
        assert_steps_like_leaps(requests, pools, seed=3)
        one_in_front = [fixed(0), replace(fixed(1), encoder=3), encoder()]
        row = encoder(n_blocks=0, name="row")
        idle = row.pool.model_copy(update={"replicas": 0})
        one_in_front.append(replace(row, pool=idle, model=1))
        assert_steps_like_leaps(requests, one_in_front, seed=3)


def test_images_compose_with_tokens_that_are_proposed():
    for seed in range(3):
        requests = looking(seed, 40, isl=40)
        for speculates in kinds(n_blocks=40).values():
            speculates = [speculates] if not isinstance(speculates, list) else speculates
            if any(one.port_bytes_per_s == 0 for one in speculates):
                speculates = [
                    replace(one, port_bytes_per_s=2e6, kv_token_bytes=1000.0) for one in speculates
                ]
            assert_steps_like_leaps(requests, [*speculates, encoder()], seed=3)
            assert_steps_like_leaps(requests, in_front(speculates), seed=3)


def test_caps_on_kept_tokens_compose_with_images():
    for seed in range(3):
        requests = looking(seed, 40, isl=60)
        requests = replace(requests, block_hashes=None, block_starts=None, hash_tokens=0)
        capped = [pool(replicas=2, n_blocks=40, kept_tokens=24, attended_tokens=16)]
        assert_steps_like_leaps(requests, [encoder(), *capped], seed=3)
        assert_steps_like_leaps(requests, in_front(capped), seed=3)


@pytest.mark.parametrize("batch", ["static", "whole", "prefill_first", "decode_first"])
def test_images_compose_with_ways_of_batching(batch):
    for seed in range(3):
        requests = looking(seed, 40, isl=40, ties=True)
        one = [pool(replicas=2, n_blocks=40, batch=batch)]
        assert_steps_like_leaps(requests, [encoder(), *one], seed=3)
        assert_steps_like_leaps(requests, in_front(one), seed=3)


def test_images_compose_with_faults_and_scale_rules():
    crash = Fault(mtbf_s=0.4, mttr_s=0.15)
    slow = Fault(effect="slow", mtbf_s=0.3, mttr_s=0.3, factor=2.5)
    link = Fault(effect="link", mtbf_s=0.2, mttr_s=0.2, factor=8)
    spot = Fault(effect="loss", mtbf_s=0.5, mttr_s=0.2, notice_s=0.1, on_notice="move")
    for seed in range(2):
        requests = looking(seed, 60, isl=60, ties=seed % 2 == 0)
        for name, pools in seeing_fleets().items():
            for faults in ((crash, slow), (link,), (spot, slow)):
                changing = scaled(pools, 0, min_replicas=0)
                leapt = both_ways(drive, requests, changing, faults=faults, cold_s=0.05, seed=1)
                log = assert_laws(leapt.server, requests)
                assert log.n_unfinished == 0, name
