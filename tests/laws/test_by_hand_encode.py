"""Encoders, and embeddings that are kept: small cases worked out on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import both_ways, pool, serve
from seeing import encoder, in_front
from serving import PS, table
from test_embedding_laws import shown
from test_encoder_laws import one, step_ps

from forerun.sim.core.rows_log import STATUS
from forerun.sim.embeddings import Cache

MS = PS // 1000
HOST = round(1e-4 * PS)
COSTS = table(64, 8, flat=3e-3)  # of every encoder here; a step of 64 units at most


def kept_in(pools):
    """The same pools, an image of 5 tokens is 5,000 bytes."""
    return [replace(each, kv_token_bytes=1000.0) for each in pools]


def test_an_item_as_large_as_a_step_of_the_encoder_is_encoded():
    for pools in (in_front([pool()]), [encoder(), pool()]):
        log = serve(one(n_items=1, units=64, tokens=16), pools).log_so_far()
        assert log.requests["status"][0] == STATUS["finished"]
        assert log.encodes["n_units"].sum() == 64


def test_items_that_an_encoder_never_has_room_for_are_turned_away():
    """Two of 20 units take 10 blocks of 4; of 11 blocks one is kept free, of 10 as well."""
    for n_blocks, status in ((11, "finished"), (10, "rejected")):
        few = encoder(n_blocks=n_blocks, watermark=0.1)
        log = serve(one(), [few, pool()]).log_so_far()
        assert log.requests["status"][0] == STATUS[status], n_blocks


def test_as_many_items_as_fit_a_step_are_encoded_in_it():
    """Three of 32 units: two in a step of 64, then one; both before the prompt is computed."""
    log = both_ways(serve, one(n_items=3, units=32, tokens=8), in_front([pool()])).log_so_far()
    steps = log.leaps[log.leaps["pool"] == 1]
    assert steps["n_tokens"].tolist() == [64, 32]
    assert [abs(int(each["first_ps"]) - step_ps(32, n, COSTS)) <= 2
            for each, n in zip(steps, (2, 1), strict=True)] == [True, True]  # fmt: skip


def test_a_chunk_that_ends_inside_an_image_needs_all_of_it():
    """Chunks of 12 tokens, images of 8: the first reaches into the second image, and the next into
    the third, which is the last; tokens after them need none."""
    pools = in_front([pool(max_num_batched_tokens=12, max_num_seqs=8)])
    log = both_ways(serve, one(n_items=3, units=12, tokens=8, isl=40), pools).log_so_far()
    assert log.leaps["pool"].tolist()[:5] == [1, 0, 1, 0, 0]
    assert log.leaps[log.leaps["pool"] == 1]["n_chunks"].tolist() == [2, 1]


def test_a_step_of_the_encoder_takes_its_least_time():
    """Never shorter than 20 ms; one that has nothing to compute is none."""
    pools = in_front([pool()])
    pools[1] = replace(pools[1], table=replace(pools[1].table, eager_s=20e-3))
    requests = shown([[1], [1]])
    log = both_ways(serve, requests, kept_in(pools), embeddings=Cache(1e6)).log_so_far()
    text = serve(replace(requests, n_items=None), pools).log_so_far()
    longer = log.requests["first_token_ps"] - text.requests["first_token_ps"]
    assert longer.tolist() == [20 * MS, 0]
    assert log.encodes["spared_ps"][0] == 20 * MS


def test_a_cache_holds_two_items_that_are_just_as_large_as_it():
    """5,000 bytes each: of 10,000 both are kept; one of 5,000 in a cache of 5,000."""
    for capacity, names, found in ((10e3, [[1, 2], [1, 2]], 2), (5e3, [[1], [1]], 1)):
        pools = kept_in(in_front([pool()]))
        log = both_ways(serve, shown(names), pools, embeddings=Cache(capacity)).log_so_far()
        assert log.encodes["n_found"].sum() == found
        assert log.meta["embeddings"]["evicted"] == 0


def test_who_asks_again_is_the_one_used_last():
    """Room for two: 1 and 2 come, 1 again, then 3: 2 goes, and 1 is found once more.  So it is
    where the encoder is in front and on a pool of its own."""
    for pools in (in_front([pool()]), [encoder(), pool()]):
        requests = shown([[1], [2], [1], [3], [1]])
        log = both_ways(serve, requests, kept_in(pools), embeddings=Cache(10e3)).log_so_far()
        assert log.encodes["n_found"].sum() == 2


def test_the_fleets_cache_has_an_item_only_when_its_step_is_over():
    """Two replicas get the same image at once, and both compute it; the third one finds it."""
    pools = kept_in(in_front([pool(replicas=2)]))
    cache = Cache(1e6, shared=True, bytes_per_s=1e9)
    requests = shown([[1], [1], [1]], at=[0, 1e-3, 1])
    log = serve(requests, pools, embeddings=cache).log_so_far()
    assert (log.encodes["n_items"].sum(), log.encodes["n_found"].sum()) == (2, 1)


def test_reading_takes_as_long_as_its_link_to_the_picosecond_and_the_link_is_free_after_a_failure():
    """10,000 bytes at 30 kB/s: a third of a second, rounded up.  A failure while it reads; when it
    is back, nothing is kept, and nothing is read."""
    pools = kept_in(in_front([pool()]))
    cache = Cache(1e6, bytes_per_s=30e3)
    requests = shown([[1, 2], [1, 2], [1, 2], [1, 2]], at=[0, 1, 2, 3])
    commands = [(1.1, "fail", 0), (1.2, "open", 0)]
    text = replace(requests, n_items=None)
    rows = [serve(r, pools, embeddings=cache).log_so_far().requests for r in (requests, text)]
    later = (rows[0]["first_token_ps"] - rows[1]["first_token_ps"])[1:]
    assert later.tolist() == [-(-10_000 * PS // 30_000)] * 3
    log = serve(requests, pools, embeddings=cache, commands=commands).log_so_far()
    again = log.requests["first_token_ps"][1] - 12 * PS // 10
    assert abs(again - (rows[0]["first_token_ps"][0] - rows[0]["arrival_ps"][0])) <= 2


def test_what_is_read_beside_what_is_computed_is_only_what_was_found():
    """One of two images is there: 5,000 bytes at 100 kB/s after 1 ms are 51 ms, longer than the
    other's step, which is hidden in it.  Where nothing is found nothing is read."""
    pools = kept_in(in_front([pool()]))
    requests = shown([[1], [1, 2]])
    log = serve(
        requests, pools, embeddings=Cache(1e6, bytes_per_s=1e5, latency_s=1e-3)
    ).log_so_far()
    text = serve(replace(requests, n_items=None), pools).log_so_far()
    assert (log.requests["first_token_ps"] - text.requests["first_token_ps"])[1] == 51 * MS
    assert log.encodes["read_ps"].sum() == 51 * MS


def test_routers_forget_those_whose_images_are_lost_while_they_wait():
    """An answer fills the memory, the second waits behind it with its embeddings where they were
    computed; the encoder fails.  Nobody waits any more, and one is outstanding."""
    pools = [encoder(replicas=2), pool(n_blocks=24)]
    requests = replace(
        one(at=[0, 0.05, 0.3], n_items=0), n_items=np.array([0, 2, 0]),
        item_units=np.array([0, 20, 0]), item_tokens=np.array([0, 5, 0]),
        isl=np.array([32, 60, 4]), osl=np.array([50, 2, 2]),
    )  # fmt: skip
    server = both_ways(serve, requests, pools, commands=[(0.1, "fail", 0)])
    state = server._state
    assert server.log_so_far().requests["n_retries"].max() == 1
    assert not state.load[:4].any()
    assert not state.replicas["n_waiting"].any()
