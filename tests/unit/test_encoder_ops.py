"""Image encoders: what images become, and what computing them takes."""

from __future__ import annotations

import numpy as np
import pytest

from forerun import catalog
from forerun.cost.price import price
from forerun.errors import ForerunError, SpecError
from forerun.ops.attention import Attention
from forerun.ops.encoder import embedding_bytes, lower_encoder
from forerun.spec.deployment import Pool
from forerun.spec.items import item, with_items
from forerun.spec.requests import Requests
from forerun.spec.workload import Media, Traffic

H100 = Pool(device="h100-sxm")


@pytest.mark.parametrize(
    ("name", "size", "units", "tokens"),
    [
        # by hand from smart_resize: 1288 x 728 is 92 x 52 patches of 14
        ("qwen2.5-vl-7b", (1280, 720), 92 * 52, 46 * 26),
        ("qwen2.5-vl-7b", (28, 28), 16, 4),
        ("qwen3-vl-8b", (1280, 720), 80 * 44, 40 * 22),
        ("gemma-3-4b", (1280, 720), 64 * 64, 256),
        ("llava-1.5-7b", (1280, 720), 24 * 24 + 1, 576),
    ],
)
def test_an_image_is_as_many_patches_and_tokens_as_its_processor_makes(name, size, units, tokens):
    found = item(catalog.model(name), *size)
    assert (found.units, found.tokens) == (units, tokens)


def test_a_huge_image_is_scaled_below_the_most_pixels_and_keeps_its_shape():
    found = item(catalog.model("qwen2.5-vl-7b"), 20_000, 10_000)
    assert 0.95 * 16_384 < found.tokens <= 16_384
    assert found.units == 4 * found.tokens


def test_models_without_encoders_or_with_unknown_rules_say_so():
    with pytest.raises(SpecError, match="no image encoder"):
        item(catalog.model("llama-3.1-8b"), 336, 336)
    with pytest.raises(SpecError, match="how many tokens an image has is not known"):
        item(catalog.model("llama-4-scout"), 336, 336)


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b", "llava-1.5-7b", "qwen2.5-vl-72b", "qwen2-7b"])
def test_the_lowered_encoder_holds_the_parameters_of_the_model(name):
    model = catalog.model(name)
    if model.vision is None:
        with pytest.raises(ForerunError, match="no image encoder"):
            lower_encoder(model, H100)
        return
    v, graph = model.vision, lower_encoder(model, H100)
    left_out = 0 if v.layers_run is None else (v.n_layers - v.layers_run) / v.n_layers * v.params
    # biases of the products in feed-forward layers and the projector, positions, the class token
    assert graph.params() == pytest.approx(v.params - left_out, rel=0.01)


def test_flop_of_an_image_are_those_of_its_products_and_of_pairs_that_see_each_other():
    model = catalog.model("llava-1.5-7b")
    table = price(
        lower_encoder(model, H100), catalog.device("h100-sxm"), max_tokens=2048, max_seqs=1,
        max_len=64,
    )  # fmt: skip
    n, h, layers = 577, 1024, 23
    pairs = layers * 4 * n * n * h
    assert table.flop.prefill[n, 0] == pytest.approx(pairs, rel=1e-9)
    products = 2 * n * (layers * (4 * h * h + 8 * h * h) + 3 * 14 * 14 * h + h * 4096 + 4096 * 4096)
    assert table.flop.tokens[n] == pytest.approx(products, rel=0.02)  # norms and activations beside


def test_windows_bound_what_a_patch_sees():
    seen = Attention(4, 4, 80, 80, window=64, causal=False, cached=False)
    whole = Attention(4, 4, 80, 80, causal=False, cached=False)
    n = np.array([32.0, 64.0, 640.0])
    flop = seen.prefill(n, np.zeros(1)).flop / whole.prefill(n, np.zeros(1)).flop
    np.testing.assert_allclose(flop, [1, 1, 0.1])


def test_a_larger_image_never_takes_less_and_tensor_parallelism_never_more():
    model, device = catalog.model("qwen2.5-vl-7b"), catalog.device("h100-sxm")
    times = []
    for tp in (1, 2, 4):
        graph = lower_encoder(model, H100.model_copy(update={"tp": tp}))
        work = price(graph, device, max_tokens=8192, max_seqs=1, max_len=64).time_s
        times.append(work.tokens[1:] + work.prefill[1:, 0])
        assert (np.diff(np.maximum.accumulate(work.tokens)) >= 0).all()
    assert times[0][-1] > times[1][-1] > times[2][-1]


def test_embeddings_are_the_width_of_the_decoder():
    assert embedding_bytes(catalog.model("qwen2.5-vl-7b")) == 2 * 3584


def test_images_lengthen_the_prompt_by_their_tokens_and_frames_are_joined():
    model = catalog.model("qwen2.5-vl-7b")
    columns = {name: np.array([280, 280]) for name in ("item_width", "item_height")}
    requests = Requests(
        np.zeros(2), np.array([10, 10]), np.array([1, 1]), n_items=np.array([5, 0]), **columns,
        meta={"frames": True},
    )  # fmt: skip
    found = with_items(requests, [model])
    assert found.n_items.tolist() == [3, 0]  # five frames are three pairs
    assert found.isl.tolist() == [10 + 3 * 100, 10]
    assert found.item_units.tolist() == [400, 0]


def test_media_are_drawn_by_a_stream_of_their_own():
    from forerun.spec.traces.draw import requests_of

    base = {"rate_per_s": 5, "n_requests": 400, "isl": 50, "osl": 10}
    media = Media(share=0.5, n={"kind": "uniform", "mean": 2, "high": 3}, size="640x480")
    plain = requests_of(Traffic(**base), seed=3)
    shown = requests_of(Traffic(**base, media=media), seed=3)
    np.testing.assert_array_equal(plain.arrival_s, shown.arrival_s)
    np.testing.assert_array_equal(plain.isl, shown.isl)
    assert 150 < (shown.n_items > 0).sum() < 250
    assert set(shown.n_items.tolist()) == {0, 1, 2, 3}


def test_mistakes_in_media_are_sentences():
    from forerun.spec.traces.draw import requests_of

    for given, words in (
        ({"n": 1}, "neither a size"),
        ({"size": "wide"}, "not a size in pixels"),
        ({"size": "10x10", "patches": 3}, "given together"),
    ):
        with pytest.raises(ValueError, match=words):
            Media(**given)
    documents = {"n": 10, "tokens": 16, "a_request": 1}
    traffic = Traffic(
        rate_per_s=5, n_requests=4, isl=50, osl=10, documents=documents, media={"size": "10x10"}
    )
    with pytest.raises(SpecError, match="name their blocks"):
        requests_of(traffic, seed=1)


def test_a_pool_that_encodes_is_divided_as_its_encoder_can_be():
    import forerun

    def load(pools):
        return forerun.load(
            {
                "model": "qwen2.5-vl-7b",
                "fleet": {"h100-sxm": 24},
                "traffic": {"rate_per_s": "1 req/s", "n_requests": 3, "isl": 9, "osl": 9},
                "deployment": {"pools": [*pools, {"name": "main", "device": "h100-sxm"}]},
            }
        )

    images = {"name": "images", "role": "encode", "device": "h100-sxm"}
    load([{**images, "tp": 16}])  # more than the decoder has KV heads to divide
    with pytest.raises(SpecError, match="16 heads of the image encoder cannot be divided by tp 3"):
        load([{**images, "tp": 3}])
    with pytest.raises(SpecError, match="tensor parallelism only"):
        load([{**images, "pp": 2}])


def test_a_trace_tells_what_its_prompts_show(tmp_path):
    from forerun.spec.traces import read

    path = tmp_path / "seen.csv"
    path.write_text(
        "arrival_s,isl,osl,images,image_width,image_height\n0,10,5,2,280,280\n1,10,5,0,0,0\n"
    )
    found = with_items(read(path), [catalog.model("qwen2.5-vl-7b")])
    assert found.isl.tolist() == [210, 10]
