"""Video streams: their chunks, and when each frame is in time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.errors import ForerunError, SpecError
from forerun.metrics.streams import frames_of
from forerun.sim.log import Streams

CASE = {
    "model": "wan2.1-t2v-1.3b",
    "fleet": {"h100-sxm": 1},
    "traffic": {
        "rate_per_s": "0.2 req/s",
        "n_requests": 3,
        "render": {"size": "832x480", "steps": 2, "stream": {"seconds": 2}},
    },
    "slo": {"frame_s": "500 ms"},
    "deployment": {"device": "h100-sxm"},
}


def answered(case=CASE, **render):
    traffic = {**case["traffic"], "render": {**case["traffic"]["render"], **render}}
    return forerun.simulate(forerun.load({**case, "traffic": traffic}), bootstrap=False)


def test_a_stream_is_a_run_of_chunks_at_its_pace():
    result = answered()
    wanted = result.requests
    assert len(wanted) == 3 * 2 * 16 // 4
    assert (wanted.isl == 52 * 30).all()  # a latent of four frames
    assert (wanted.frames == 4).all()
    for k in range(3):
        sent = wanted.arrival_s[wanted.session == k]
        assert np.diff(sent) == pytest.approx(4 / 16)
    assert wanted.n_items.sum() == 3  # each prompt is read once
    assert result.log.encodes["n_items"].sum() == 3


def test_a_stream_of_one_chunk_without_a_past_is_a_single_answer():
    image = {
        "model": "z-image-turbo",
        "fleet": {"h100-sxm": 1},
        "traffic": {"rate_per_s": "2 req/s", "n_requests": 20, "render": {"size": "512x512"}},
        "deployment": {"device": "h100-sxm"},
    }
    one = {"fps": 1, "frames": 1, "seconds": 1, "past_frames": 0}
    plain, streamed = (answered(image, **more).log for more in ({}, {"stream": one}))
    np.testing.assert_array_equal(plain.requests, streamed.requests)
    np.testing.assert_array_equal(plain.leaps, streamed.leaps)


def test_frames_are_in_time_from_their_own_places():
    log = answered().log
    rows = log.requests[:4].copy()
    rows["request"] = np.arange(4)
    rows["arrival_ps"] = np.array([0, 0, 1, 1]) * 10**12 // 4
    rows["done_ps"] = np.array([300, 100, 600, 2000]) * 10**9
    rows["status"] = 0
    session = np.array([0, 1, 0, 1])
    found = frames_of(replace(log, requests=rows, streams=Streams(session, 16.0, 4)))
    own = np.arange(4) / 16
    expected = np.concatenate([0.3 - own, 0.35 - own, 0.1 - own, 1.75 - own])
    assert found.latency_s == pytest.approx(expected)
    assert found.uneven_s == pytest.approx([0.3 - 0.25, 1.9 - 0.25])
    assert found.fps == pytest.approx([8 / 0.6, 8 / 2.0])
    rows["status"][3] = 1  # it never came
    lost = frames_of(replace(log, requests=rows, streams=Streams(session, 16.0, 4)))
    assert np.isinf(lost.latency_s[-4:]).all()
    assert lost.fps[1] == 0


def test_a_past_makes_attention_longer_and_nothing_else():
    near, far = (answered(stream={"seconds": 2, "past_frames": p}) for p in (0, 48))
    tables = [r.log.tables[0] for r in (near, far)]
    np.testing.assert_array_equal(tables[0].time_s.tokens, tables[1].time_s.tokens)
    n = 52 * 30
    ratio = tables[1].time_s.prefill[n, 0] / tables[0].time_s.prefill[n, 0]
    assert ratio == pytest.approx(1 + 12, rel=1e-6)  # 48 frames are 12 latents more
    assert far.log.kv_blocks[0] < near.log.kv_blocks[0]


def test_more_streams_than_a_device_makes_miss_their_times():
    few, many = (
        answered({**CASE, "traffic": {**CASE["traffic"], "n_requests": n, "rate_per_s": "9 req/s"}})
        for n in (2, 12)
    )
    assert few.metrics.slo_met
    assert few.metrics.frames_in_time.value == 1.0
    assert not many.metrics.slo_met
    assert many.metrics.stream_fps.value < 16
    assert "SLO missed" in str(many)
    assert "of frames are in time" in str(many)


def test_what_a_stream_cannot_be_is_said():
    for render, said in [
        ({"stream": {"frames": 3}}, "multiple of 4"),
        ({"stream": {"past_frames": 10}}, "multiple of 4"),
        ({"stream": {}, "frames": 81}, "frames of its own"),
        ({"stream": {"fps": 0}}, "fps"),
    ]:
        with pytest.raises(ForerunError, match=said):
            answered(**render)
    with pytest.raises(SpecError, match="pace"):
        answered({**CASE, "traffic": {**CASE["traffic"], "rate_per_s": None, "concurrency": 2}})
    with pytest.raises(SpecError, match="streams"):
        answered(stream=None)


def test_a_chunk_counts_the_latents_of_its_frames():
    wan = catalog.model("wan2.1-t2v-14b").diffusion
    assert wan.chunk(832, 480, 8) == 2 * 52 * 30
