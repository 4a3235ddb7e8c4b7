"""Laws of embeddings that are kept: in front of the model, on pools that encode, of the fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleets import assert_laws, both_ways, pool, serve
from flows import woven
from seeing import encoder, in_front, looking, naming, seeing_fleets
from serving import PS, table
from test_encoder_laws import disturbed, step_ps

from forerun.errors import SpecError
from forerun.sim.core import arrivals, rows_request, state
from forerun.sim.embeddings import Cache
from forerun.spec.requests import Requests
from forerun.spec.workload import Client

CACHES = {
    "own": Cache(20e3),
    "on the host": Cache(20e3, bytes_per_s=20e6, latency_s=1e-4),
    "of the fleet": Cache(40e3, shared=True, bytes_per_s=10e6, latency_s=1e-3),
}


def fleets():
    """Those that encode, in which an image of 5 tokens has 5,000 bytes."""
    return {
        name: [replace(one, kv_token_bytes=1000.0) for one in pools]
        for name, pools in seeing_fleets().items()
    }


def shown(names, *, at=None, units=20, tokens=5, isl=32, osl=3):
    """A request for each list of names."""
    n = np.array([len(one) for one in names])
    at = np.arange(len(n)) * 1.0 if at is None else np.asarray(at, dtype=float)
    return Requests(
        at, np.full(len(n), isl), np.full(len(n), osl), n_items=n,
        item_units=np.where(n > 0, units, 0), item_tokens=np.where(n > 0, tokens, 0),
        item_names=np.concatenate(names).astype(np.int64),
        item_starts=np.concatenate([[0], np.cumsum(n)]),
    )  # fmt: skip


def assert_kept(server):
    """No cache holds more than it may, and its list holds what its items say."""
    for a, album in enumerate(server._state.albums):
        row = server._state.pictures[a]
        assert album.n_bytes == row.n_bytes.sum()
        assert album.n == (row.n_bytes > 0).sum()
        assert album.peak_bytes <= album.most_bytes
        k, seen = album.oldest, []
        while k >= 0:
            seen.append(k)
            k = row.next[k]
        assert len(seen) == len(set(seen)) == album.n
        assert (row.n_bytes[seen] > 0).all()


def kept_both_ways(requests, pools, **settings):
    leapt = both_ways(serve, requests, pools, **settings)
    assert_kept(leapt)
    return assert_laws(leapt, requests)


@pytest.mark.parametrize("cache", CACHES)
def test_a_leap_equals_stepping_with_embeddings_that_are_kept(cache):
    found = 0
    for seed in range(4):
        requests = naming(looking(seed, 60, isl=60, ties=seed % 2 == 0), 12, seed)
        for pools in fleets().values():
            log = kept_both_ways(requests, pools, embeddings=CACHES[cache], seed=3)
            found += log.encodes["n_found"].sum()
            assert (log.encodes["n_found"] <= log.encodes["n_asked"]).all()
    assert found > 50


@pytest.mark.parametrize("cache", CACHES)
def test_a_leap_equals_stepping_with_kept_embeddings_whatever_happens_to_the_fleet(cache):
    for seed in range(4):
        requests = naming(looking(seed, 60, isl=60, ties=seed % 2 == 0), 12, seed)
        for pools in fleets().values():
            commands = disturbed(seed, pools)
            kept_both_ways(requests, pools, embeddings=CACHES[cache], commands=commands, seed=3)


def test_items_without_names_are_never_found():
    requests = looking(3, 60, isl=60)
    for pools in fleets().values():
        plain = serve(requests, pools, seed=3).log_so_far()
        for cache in CACHES.values():
            log = serve(requests, pools, seed=3, embeddings=cache).log_so_far()
            np.testing.assert_array_equal(log.requests, plain.requests)
            np.testing.assert_array_equal(log.leaps, plain.leaps)
            assert not log.encodes["n_found"].any()


def test_a_cache_without_room_writes_the_log_of_none():
    requests = naming(looking(3, 60, isl=60), 12, 3)
    for pools in fleets().values():
        plain = serve(requests, pools, seed=3).log_so_far()
        log = serve(requests, pools, seed=3, embeddings=Cache(1.0)).log_so_far()
        np.testing.assert_array_equal(log.requests, plain.requests)
        np.testing.assert_array_equal(log.leaps, plain.leaps)


def test_every_item_is_computed_or_found():
    requests = naming(looking(5, 60, isl=60), 12, 5)
    unnamed = replace(requests, block_hashes=None, block_starts=None, hash_tokens=0)
    for pools in fleets().values():
        for cache in CACHES.values():
            done = serve(unnamed, pools, seed=3, embeddings=cache).log_so_far().encodes
            total = int(done["n_items"].sum() + done["n_found"].sum())
            assert total == done["n_asked"].sum() == requests.n_items.sum()


def test_an_item_that_comes_again_is_not_encoded_again():
    requests = shown([[7, 8], [7, 8], [8, 9]])
    log = serve(requests, in_front([pool()]), embeddings=Cache(1e6)).log_so_far()
    text = serve(replace(requests, n_items=None), in_front([pool()])).log_so_far()
    longer = (log.requests["first_token_ps"] - text.requests["first_token_ps"]).tolist()
    costs = table(64, 8, flat=3e-3)
    for seen, n in zip(longer, (2, 0, 1), strict=True):
        assert abs(seen - (step_ps(20, n, costs) if n else 0)) <= 2
    assert log.encodes["n_found"].sum() == 3
    spared = 2 * step_ps(20, 2, costs) - step_ps(20, 1, costs)
    assert abs(log.encodes["spared_ps"].sum() - spared) <= 4


def test_one_step_computes_an_item_once_where_the_cache_is_the_replicas_own():
    requests = shown([[7], [7], [7]], at=[0, 0, 0], isl=8)
    log = serve(requests, in_front([pool()]), embeddings=CACHES["own"]).log_so_far()
    assert log.encodes["n_items"].sum() == 1
    assert len(np.unique(log.requests["first_token_ps"])) == 1


def test_what_is_used_longest_ago_goes_first():
    four = in_front([pool()])
    four[1] = replace(four[1], kv_token_bytes=1000.0)
    requests = shown([[1], [2], [1], [3], [1], [2]])
    log = serve(requests, four, embeddings=Cache(10e3)).log_so_far()  # two of 5,000 bytes
    assert log.encodes["n_found"].sum() == 2  # 1 and 1; 2 went when 3 came
    assert log.meta["embeddings"]["evicted"] == 2


def test_reading_from_elsewhere_takes_the_time_of_its_link():
    requests = shown([[1, 2], [1, 2]])
    pools = in_front([pool()])
    pools[1] = replace(pools[1], kv_token_bytes=1000.0)
    near, far = (
        serve(requests, pools, embeddings=cache).log_so_far().requests
        for cache in (Cache(1e6), Cache(1e6, bytes_per_s=1e6, latency_s=2e-3))
    )
    later = far["first_token_ps"] - near["first_token_ps"]
    assert later.tolist() == [0, 12 * PS // 1000]  # 10,000 bytes at 1 MB/s, and 2 ms


def test_two_replicas_read_the_cache_of_the_fleet_one_after_another():
    requests = shown([[1, 2], [1, 2], [1, 2]], at=[0, 1, 1])
    pools = in_front([pool(replicas=2)])
    pools[1] = replace(pools[1], kv_token_bytes=1000.0)
    cache = Cache(1e6, shared=True, bytes_per_s=1e6)
    rows = serve(requests, pools, embeddings=cache).log_so_far().requests
    assert rows["replica"][1] != rows["replica"][2]
    assert rows["first_token_ps"][2] - rows["first_token_ps"][1] == 10 * PS // 1000


def test_a_pool_that_encodes_sends_on_what_it_finds():
    requests = shown([[1, 2], [2, 1], [1, 3]])
    pools = [encoder(), pool()]
    log = kept_both_ways(requests, pools, embeddings=Cache(1e6))
    assert log.encodes["n_items"].sum() == 3
    assert log.encodes["n_units"].sum() == 60
    waits = log.requests["first_token_ps"] - log.requests["arrival_ps"]
    costs = table(64, 8, flat=3e-3)
    assert abs(waits[0] - waits[1] - step_ps(20, 2, costs)) <= 2
    assert abs(waits[0] - waits[2] - (step_ps(20, 2, costs) - step_ps(20, 1, costs))) <= 2


def test_a_replica_that_fails_loses_its_cache_and_the_fleets_stays():
    requests = shown([[1], [1]], at=[0, 2])
    commands = [(1.0, "fail", 0), (1.5, "open", 0)]
    for cache, n in ((CACHES["own"], 2), (CACHES["of the fleet"], 1)):
        log = serve(requests, in_front([pool()]), embeddings=cache, commands=commands)
        assert log.log_so_far().encodes["n_items"].sum() == n


def test_one_name_of_two_models_is_two_items():
    requests = replace(shown([[1], [1]]), model=np.array([0, 1]))
    pools = [
        replace(pool(), encoder=2), replace(pool("both", "b"), model=1, encoder=3),
        *in_front([pool(), pool("both", "b")])[2:],
    ]  # fmt: skip
    pools[3] = replace(pools[3], model=1)
    cache = replace(CACHES["of the fleet"], capacity_bytes=1e6)
    log = serve(requests, pools, embeddings=cache).log_so_far()
    assert log.encodes["n_found"].sum() == 0


def test_mistakes_are_sentences():
    with pytest.raises(SpecError, match="nobody encodes anything"):
        serve(shown([[1]]), [pool()], embeddings=Cache(1e6))
    with pytest.raises(SpecError, match="several regions"):
        serve(
            shown([[1]]), in_front([pool()]), embeddings=CACHES["of the fleet"],
            way_s=((0, 0.1), (0.1, 0)),
        )  # fmt: skip


def test_a_released_arrival_keeps_every_field():
    one, other = (state.rows(1, rows_request.ARRIVAL)[0] for _ in range(2))
    for k, name in enumerate(rows_request.ARRIVAL.names):
        one[name] = k + 1
    getattr(arrivals._copy, "py_func", arrivals._copy)(other, one)
    assert one.item() == other.item()


@pytest.mark.parametrize("cache", CACHES)
def test_requests_that_are_released_or_sent_again_show_their_own_images(cache):
    """What no two requests share is never found but by the request itself, sent again."""
    client = Client(first_token_s=0.15, hedge_s=0.05, retries=2, retry_on=("timeout", "failure"))
    for seed in range(2):
        plain = looking(seed, 60, isl=60)
        own = np.arange(int(plain.n_items.sum()))
        starts = np.concatenate([[0], np.cumsum(plain.n_items)])
        plain = replace(plain, item_names=own, item_starts=starts)
        for pools in fleets().values():
            for requests in (plain, woven(plain, seed)):
                log = kept_both_ways(requests, pools, embeddings=CACHES[cache], seed=3)
                assert not log.encodes["n_found"].any()
                kept_both_ways(requests, pools, embeddings=CACHES[cache], client=client, seed=3)
            closed = serve(plain, pools, embeddings=CACHES[cache], concurrency=4, seed=3)
            assert not closed.log_so_far().encodes["n_found"].any()
