"""Prefix blocks of prompts with images: the same images and text share them, others never do."""

from __future__ import annotations

import numpy as np
import pytest

from forerun import api, catalog
from forerun.errors import SpecError, TraceError
from forerun.spec.item_blocks import with_blocks
from forerun.spec.items import with_items
from forerun.spec.requests import Requests
from forerun.spec.traces import plain
from forerun.spec.traces.draw import requests_of
from forerun.spec.workload import Media, Traffic

VL = [catalog.model("qwen2.5-vl-7b")]


def shown(names, text=None, *, tokens=40, words=64, size=16):
    """Requests with these images and texts of `words` tokens; text : block names by request."""
    n = np.array([len(one) for one in names])
    text_blocks = None if text is None else np.concatenate([np.array(t) for t in text])
    return Requests(
        np.arange(len(n)) * 1.0, n * tokens + words, np.full(len(n), 4), n_items=n,
        item_units=np.where(n > 0, 4 * tokens, 0), item_tokens=np.where(n > 0, tokens, 0),
        item_names=np.concatenate([np.array(one, dtype=np.int64) for one in names]),
        item_starts=np.concatenate([[0], np.cumsum(n)]),
        block_hashes=text_blocks,
        block_starts=None if text is None else np.cumsum([0] + [len(t) for t in text]),
        hash_tokens=0 if text is None else size,
    )  # fmt: skip


def blocks(requests):
    whole = with_blocks(requests, 16)
    return [
        whole.block_hashes[whole.block_starts[i] : whole.block_starts[i + 1]].tolist()
        for i in range(len(whole))
    ]


def common(a, b):
    """How many blocks two lists begin with that are the same; none is the same further on."""
    n = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert not set(a[n:]) & set(b[n:])
    return n


def test_blocks_of_images_alone_are_those_that_images_fill():
    same, again, other = blocks(shown([[1, 2], [1, 2], [1, 3]]))
    assert len(same) == 80 // 16
    assert same == again
    assert common(same, other) == 40 // 16  # the third block reaches into the second image


def test_text_after_images_is_shared_with_the_same_images_only():
    text = [[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 7, 8], [5, 6, 7, 8]]
    a, b, c, d = blocks(shown([[1, 2], [1, 2], [1, 3], []], text))
    assert len(a) == 144 // 16
    assert common(a, b) == (80 + 48) // 16  # three blocks of text are the same
    assert common(a, c) == 40 // 16
    assert common(a, d) == 0
    assert d == text[3]


def test_a_text_block_that_images_have_moved_counts_when_all_its_tokens_are_known():
    # 40 tokens of one image: block 2 ends 8 tokens into the text, which its first block says
    a, b = blocks(shown([[1], [1]], [[5, 6], [5, 7]]))
    assert common(a, b) == (40 + 16) // 16
    assert len(a) == (40 + 32) // 16  # beyond its two named blocks the text is not known


def test_an_image_without_a_name_ends_the_names():
    a, b = blocks(shown([[1, -1], [1, -1]]))
    assert len(a) == 40 // 16
    assert a == b


def test_one_image_of_two_sizes_is_two_images():
    a, b = blocks(shown([[1]]))[0], blocks(shown([[1]], tokens=48))[0]
    assert common(a, b) == 0


@pytest.mark.parametrize("seed", range(5))
def test_two_prompts_share_a_block_exactly_when_all_before_its_end_is_the_same(seed):
    draw = np.random.default_rng(seed)
    names = [draw.integers(0, 3, draw.integers(0, 4)).tolist() for _ in range(40)]
    text = [np.cumsum(10 ** np.arange(4) * draw.integers(1, 3, 4)).tolist() for _ in range(40)]
    found = blocks(shown(names, text))
    for i in range(40):
        for j in range(i):
            n = common(found[i], found[j])
            pictures = next(
                (k for k, (a, b) in enumerate(zip(names[i], names[j], strict=False)) if a != b),
                None,
            )
            words = next((k for k in range(4) if text[i][k] != text[j][k]), 4)
            if pictures is not None:
                assert n == 40 * pictures // 16
            elif len(names[i]) != len(names[j]):
                shorter = min(len(names[i]), len(names[j]))
                assert n == 40 * shorter // 16
            else:
                assert n == (40 * len(names[i]) + 16 * words) // 16


def test_popular_images_come_more_often_and_videos_keep_their_length():
    traffic = Traffic(n_requests=4000, rate_per_s=10, isl=50, osl=10)
    images = traffic.model_copy(update={"media": Media(n=2, size="224x224", distinct=50, skew=1.0)})
    got = with_items(requests_of(images, seed=1), VL)
    count = np.bincount(got.item_names, minlength=50)
    expected = len(got.item_names) / np.arange(1, 51) / (1 / np.arange(1, 51)).sum()
    assert abs(count - expected).max() < 5 * np.sqrt(expected.max())
    video = Media(seconds={"kind": "uniform", "mean": 10, "low": 2}, size="224x224", distinct=20)
    got = with_items(requests_of(traffic.model_copy(update={"media": video}), seed=1), VL)
    first = got.item_names[got.item_starts[:-1]]
    for name in np.unique(first):
        assert len(np.unique(got.n_items[first == name])) == 1
    assert len(np.unique(got.n_items)) > 5


def test_traces_name_images(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "arrival_s,isl,osl,images,image_width,image_height,image_hashes\n"
        "0,10,5,2,224,224,a1 b2\n1,10,5,0,0,0,\n2,10,5,1,224,224,b2\n3,10,5,1,224,224,\n"
    )
    got = plain.read(path)
    assert got.item_names.tolist() == [0, 1, 1, -1]
    assert got.item_starts.tolist() == [0, 2, 2, 3, 4]
    assert got[1:3].item_names.tolist() == [1]
    path.write_text(
        "arrival_s,isl,osl,images,image_width,image_height,image_hashes\n0,10,5,2,224,224,a1\n"
    )
    with pytest.raises(TraceError, match="2 images and 1 image_hashes"):
        plain.read(path)


CASE = {
    "model": "qwen2.5-vl-7b",
    "fleet": {"h100-sxm": 1},
    "traffic": {"n_requests": 60, "rate_per_s": "4 req/s", "isl": 64, "osl": 8,
                "media": {"n": 1, "size": "448x448", "distinct": 5}},
    "deployment": {"device": "h100-sxm"},
}  # fmt: skip


def test_prefix_caching_knows_images_again():
    named = api.simulate(api.load(CASE), bootstrap=False).metrics
    unnamed = {**CASE, "traffic": CASE["traffic"] | {"media": {"size": "448x448"}}}
    plain_run = api.simulate(api.load(unnamed), bootstrap=False).metrics
    assert named.kv_hit.value > 0.5
    assert not plain_run.kv_hit.value
    assert named.items_encoded.value < 0.3 * plain_run.items_encoded.value


def test_a_cache_in_which_nothing_can_be_found_is_refused():
    cache = {"capacity_bytes": "1 GB"}
    unnamed = {**CASE, "traffic": CASE["traffic"] | {"media": {"size": "448x448"}}}
    unnamed["deployment"] = CASE["deployment"] | {"embedding_cache": cache}
    with pytest.raises(SpecError, match="have none"):
        api.simulate(api.load(unnamed), bootstrap=False)
    bare = {k: v for k, v in CASE["traffic"].items() if k != "media"}
    text = {**unnamed, "traffic": bare}
    with pytest.raises(SpecError, match="nobody encodes anything"):
        api.simulate(api.load(text), bootstrap=False)
    elsewhere = {"capacity_bytes": "1 GB", "memory": "host"}
    with pytest.raises(SpecError, match="does not say how it is read"):
        api.load({**CASE, "deployment": CASE["deployment"] | {"embedding_cache": elsewhere}})


def test_a_cache_on_the_device_takes_memory_from_kv():
    small, large = (
        api.simulate(
            api.load({**CASE, "deployment": CASE["deployment"] | {"embedding_cache": cache}}),
            bootstrap=False,
        ).log
        for cache in ({"capacity_bytes": "1 GB"}, {"capacity_bytes": "11 GB"})
    )
    blocks_less = small.kv_blocks[0] - large.kv_blocks[0]
    assert blocks_less * 16 * 57_344 == pytest.approx(10e9, rel=0.01)
