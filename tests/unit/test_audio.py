"""Models that hear: what sound becomes, and what computing it takes."""

from __future__ import annotations

import numpy as np
import pytest

from forerun import api, catalog
from forerun.cost.price import price
from forerun.errors import SpecError
from forerun.ops.encoder import lower_encoder
from forerun.spec.deployment import Pool
from forerun.spec.hf import read_config
from forerun.spec.items import sound, with_items
from forerun.spec.params import count
from forerun.spec.requests import Requests
from forerun.spec.workload import Media

H100 = Pool(device="h100-sxm")
QWEN, VOXTRAL = "qwen2-audio-7b", "voxtral-mini-3b"


def heard(name, n, seconds):
    out = sound(catalog.model(name), np.array([n]), np.array([float(seconds)]))
    return tuple(int(one[0]) for one in out)


def test_sound_is_padded_to_windows_of_thirty_seconds_and_gives_tokens_by_its_model():
    # 1,500 positions of 20 ms; Qwen2-Audio takes the mean of two: 25 tokens a second of the sound
    assert heard(QWEN, 1, 30) == (1, 1500, 750)
    assert heard(QWEN, 2, 7) == (2, 1500, 175)
    # Voxtral puts four side by side and keeps the padding: 375 tokens a window
    assert heard(VOXTRAL, 1, 7) == (1, 1500, 375)
    assert heard(VOXTRAL, 2, 61) == (6, 1500, 375)


def test_what_a_model_does_not_hear_is_a_sentence():
    with pytest.raises(SpecError, match="hears 30 s at a time"):
        heard(QWEN, 1, 31)
    with pytest.raises(SpecError, match="has no audio encoder"):
        heard("qwen2.5-vl-7b", 1, 3)
    with pytest.raises(ValueError, match="sound alone"):
        Media(audio=3, size="224x224")
    config = {
        "model_type": "new_audio", "audio_config": {"d_model": 512},
        "text_config": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100},
    }  # fmt: skip
    model = read_config(config, name="m", source="m")
    assert model.audio is None
    assert any("not known to this reader" in one for one in model.assumed)


def test_the_lowered_encoder_holds_the_parameters_of_the_model():
    for name in (QWEN, VOXTRAL, "voxtral-small-24b"):
        model = catalog.model(name)
        graph = lower_encoder(model, H100)
        positions = 1500 * model.audio.hidden
        assert graph.params() == pytest.approx(model.audio.params - positions, rel=1e-3)
        assert lower_encoder(model, Pool(device="h100-sxm", tp=4)).params() < graph.params()


def test_a_model_that_hears_has_the_parameters_of_its_files():
    # five files of 16.79 GB together, two bytes a parameter
    assert count(catalog.model(QWEN)).total == 8_397_094_912


def test_flop_of_a_window_are_those_of_convolutions_layers_and_projector():
    model = catalog.model(QWEN)
    table = price(
        lower_encoder(model, H100), catalog.device("h100-sxm"), max_tokens=1500, max_seqs=1,
        max_len=64,
    )  # fmt: skip
    n, d, layers = 1500, 1280, 32
    assert table.flop.prefill[n, 0] == pytest.approx(layers * 4 * n * n * d, rel=1e-9)
    # both convolutions as products: 3,000 columns of 3 x 128, 1,500 of 3 x 1,280
    products = 2 * (3000 * 3 * 128 * d + n * 3 * d * d + n * layers * 12 * d * d)
    products += 2 * n / 2 * d * 4096
    assert table.flop.tokens[n] == pytest.approx(products, rel=0.02)  # norms and activations beside


def test_whisper_large_on_a_large_gpu_takes_a_few_milliseconds_a_window():
    """2 TFLOP a window: some milliseconds on an H100, and thousands of times faster than sound."""
    table = price(
        lower_encoder(catalog.model(QWEN), H100), catalog.device("h100-sxm"), max_tokens=1500,
        max_seqs=1, max_len=64,
    )  # fmt: skip
    seconds = table.time_s.tokens[1500] + table.time_s.prefill[1500, 0]
    assert 3e-3 < seconds < 12e-3


CASE = {
    "model": QWEN,
    "fleet": {"h100-sxm": 2},
    "traffic": {"n_requests": 80, "rate_per_s": "8 req/s", "isl": 40, "osl": 20,
                "media": {"audio": {"kind": "uniform", "mean": 12, "low": 2}, "distinct": 10}},
    "deployment": {"device": "h100-sxm", "replicas": 2},
}  # fmt: skip


def test_sound_runs_through_the_engine_as_images_do():
    result = api.simulate(api.load(CASE), bootstrap=False)
    wanted = result.requests
    assert (wanted.item_units == 1500).all()
    seconds = (wanted.isl - 40) / 25
    assert 8 < seconds.mean() < 16
    assert result.metrics.items_encoded.value > 60  # tokens behind the last whole block need it
    keeps = CASE["deployment"] | {"embedding_cache": {"capacity_bytes": "100 MB"}}
    kept = api.simulate(api.load({**CASE, "deployment": keeps}), bootstrap=False)
    assert kept.metrics.items_encoded.value < 30  # ten pieces, on two replicas
    assert "windows of sound" in str(result)
    pools = [
        {"name": "ears", "role": "encode", "device": "h100-sxm"},
        {"name": "answers", "device": "h100-sxm"},
    ]
    apart = api.simulate(api.load({**CASE, "deployment": {"pools": pools}}), bootstrap=False)
    assert apart.metrics.items_encoded.value == 80
    assert apart.metrics.counts.finished == 80


def test_windows_of_one_sound_are_known_again_each_by_itself():
    n = np.array([1, 1])
    requests = Requests(
        np.zeros(2), np.array([5, 5]), np.array([2, 2]), n_items=n, item_s=np.array([70.0, 70.0]),
        item_names=np.array([4, 4]), item_starts=np.array([0, 1, 2]),
    )  # fmt: skip
    got = with_items(requests, [catalog.model(VOXTRAL)])
    assert got.n_items.tolist() == [3, 3]
    assert got.item_names[:3].tolist() == got.item_names[3:].tolist()
    assert len(np.unique(got.item_names)) == 3
