"""Laws of images that are encoded on the prompts' share of a device, or come from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from control import drive, scaled
from fleets import assert_laws, assert_steps_like_leaps, both_ways, pool, serve
from seeing import encoder, looking, naming
from serving import PS
from sharing_devices import LINK, lanes, seeing
from test_lane_control_laws import CRASH, SLOW
from test_lane_fleet_laws import struck
from test_share_control_laws import LEVELS, shared

from forerun.sim.control.dials import keys
from forerun.sim.control.drive import with_rows
from forerun.sim.embeddings import Cache
from forerun.spec.requests import Requests


def fleets():
    tight = lanes(n_blocks=30, bytes_per_s=LINK)
    return {
        "one": seeing(lanes(n_blocks=40)),
        "two": seeing(lanes(replicas=2, n_blocks=40, bytes_per_s=LINK)),
        "apart": [encoder(replicas=2), *lanes(replicas=2, n_blocks=40, bytes_per_s=LINK)],
        "tight": [encoder(n_blocks=16), *tight, pool("prefill", "p", n_blocks=40)],
    }


@pytest.mark.parametrize("name", fleets())
def test_a_leap_equals_stepping_when_lanes_encode_or_get_embeddings(name):
    pools, n_units, again = fleets()[name], 0, 0
    kept = (None, Cache(12e3, shared=False, bytes_per_s=None), Cache(12e3, True, 20e6))
    for seed, cache in enumerate((*kept, *kept)):
        requests = looking(seed, 40, isl=60, rate=60)
        requests = requests if cache is None else naming(requests, 8)
        commands = struck(seed, pools) if seed > 2 else ()
        log = assert_steps_like_leaps(requests, pools, commands=commands, embeddings=cache)
        assert log.n_unfinished == 0
        n_units += log.encodes["n_units"].sum()
        again += log.requests["n_retries"].sum()
    assert n_units > 1000
    assert again > 3


def test_a_leap_equals_stepping_when_lanes_that_encode_are_struck_scaled_and_change_shares():
    for seed, rows in enumerate((lanes(replicas=2, levels=LEVELS), shared(2))):
        requests = looking(seed, 40, isl=60, rate=60)
        pools = scaled(seeing(rows), min_replicas=1)
        leapt = both_ways(drive, requests, pools, faults=(CRASH, SLOW), cold_s=0.03, seed=seed)
        assert_laws(leapt.server, requests, all_sent=False)
        assert leapt.hardware.counts["crash"] > 0


def test_each_lane_of_prompts_has_an_encoder_of_its_own_as_slow_as_its_hardware():
    rows = with_rows(seeing(lanes(levels=LEVELS)), (SLOW,))
    shown = keys(rows)
    lone = [one for one in rows if one.block is not None and one.pool.role == "prefill"]
    assert len({one.encoder for one in lone}) == len(lone) == 2 * 2 * len(LEVELS)
    for one, (_, dials) in zip(rows, shown, strict=True):
        if one.encoder >= 0:
            assert dict(shown[one.encoder][1]).get("slow") == dict(dials).get("slow")


def test_what_is_left_of_an_encoders_step_goes_faster_once_answers_have_ended_beside_it():
    """An image comes 1 ms before the only answer ends; its step is twice as long beside answers."""
    alone = Requests(np.zeros(1), np.array([8]), np.array([40]))
    end_s = serve(alone, lanes(n_blocks=80, beside=1.0)).log_so_far().requests["done_ps"][0] / PS
    asked = Requests(
        np.array([0.0, end_s - 1e-3]), np.array([8, 25]), np.array([40, 2]),
        n_items=np.array([0, 1]), item_units=np.array([0, 20]), item_tokens=np.array([0, 5]),
    )  # fmt: skip
    steps = {}
    for beside in (1.0, 2.0):
        log = serve(asked, seeing(lanes(n_blocks=80, beside=1.0), beside=beside)).log_so_far()
        (steps[beside],) = log.leaps[log.leaps["pool"] >= 4]
    whole, ms = int(steps[1.0]["first_ps"]), PS // 1000
    assert whole > 4 * ms
    assert steps[2.0]["start_ps"] == round(end_s * PS) - ms
    assert steps[2.0]["first_ps"] == pytest.approx(ms + (2 * whole - ms) / 2, abs=2)
    assert steps[2.0]["pool"] == 4  # it ended alone


def test_texts_alone_write_the_log_of_lanes_that_encode_nothing():
    requests = looking(3, 40, isl=60, share=0.0)
    plain, other = lanes(replicas=2, n_blocks=40), seeing(lanes(replicas=2, n_blocks=40))
    a, b = (serve(requests, pools).log_so_far() for pools in (plain, other))
    assert a.requests.tobytes() == b.requests.tobytes()
    assert a.leaps.tobytes() == b.leaps.tobytes()
