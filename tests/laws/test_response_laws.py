"""Laws of the response cache: who gets an answer that was kept, when, and whose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import WAYS, fitted, naming
from fleets import assert_laws, both_ways, fleets, pool, serve, sharing, troubles
from flows import assert_order, woven
from serving import PS, workload

from forerun.errors import SpecError
from forerun.spec.caches import ResponseCache
from forerun.spec.deployment import Policy
from forerun.spec.requests import Requests
from forerun.spec.traces._questions import with_questions
from forerun.spec.wordings import apart, placed
from forerun.spec.workload import Client, Questions

CATEGORIES = (
    Questions(category="code", topics=4, questions=3, wordings=3, paraphrase=0.9, related=0.8),
    Questions(category="chat", topics=20, questions=2, wordings=2, share=0.5),
)
CACHES = [
    ResponseCache(threshold=0.85),
    ResponseCache(threshold=0.8, quota=4, ttl_s=0.4, fetch_s=0.02, rate_per_s=500),
    ResponseCache(quota_bytes=4500 * 5, categories={"chat": {"skip": True}}),
    ResponseCache(threshold=0.95, categories={"code": {"threshold": 0.8, "ttl_s": 0.3}}),
]


def asking(requests, seed=0, categories=CATEGORIES):
    return with_questions(requests, categories, seed=seed)


def same_bytes(a, b):
    for name in ("requests", "leaps", "gaps", "replicas"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.end_ps == b.end_ps


def expected(log, requests, cache):
    """The answers that a cache written from its definition gives, by brute force over the log.

    Events in the order of the core: at one moment requests come before answers end.  Returns by
    request whose answer it got, -1 for none.
    """
    table, rows, answered = requests.wordings, log.requests, log.answered
    alike = {}
    for w in range(len(table)):
        at = slice(table.near_starts[w], table.near_starts[w + 1])
        alike[w] = [(w, 1.0), *zip(table.near[at].tolist(), table.similarity[at], strict=True)]
    events = []
    for row in rows:
        r = int(row["request"])
        ready = row["arrival_ps"] + round(cache.lookup_s * PS)
        if answered.asks["wording"][r] >= 0:
            events.append((int(ready), 0, r))
            if row["replica"] >= 0 and row["status"] == 0:
                events.append((int(row["done_ps"]), 1, int(row["replica"]), r))
    kept: dict[int, list] = {}  # text: [request, since, last use, bytes, category]
    got = np.full(len(requests), -1)
    clock = 0
    for event in sorted(events):
        t, kind, r = event[0], event[1], event[-1]
        w = int(requests.wording[r])
        c = int(table.category[w])
        shelf = cache.shelf(table.names[c])
        if shelf.ttl_s is not None:
            kept = {
                k: v for k, v in kept.items() if v[4] != c or v[1] + round(shelf.ttl_s * PS) > t
            }
        clock += 1
        if kind == 0:
            found = [(s, k) for k, s in alike[w] if k in kept and s >= shelf.threshold]
            if found:
                best = max(found, key=lambda f: f[0])[1]
                got[r], kept[best][2] = kept[best][0], clock
            continue
        kept.pop(w, None)
        size = cache.entry_bytes + cache.token_bytes * int(requests.osl[r])
        if shelf.quota == 0 or shelf.ttl_s == 0 or size > (shelf.quota_bytes or np.inf):
            continue
        while True:
            mine = [(v[2], k) for k, v in kept.items() if v[4] == c]
            held = sum(v[3] for v in kept.values() if v[4] == c)
            room = shelf.quota_bytes is None or held + size <= shelf.quota_bytes
            if room and (shelf.quota is None or len(mine) < shelf.quota):
                break
            del kept[min(mine)[1]]
        kept[w] = [r, t, clock, size, c]
    return got


@pytest.mark.parametrize("cache", CACHES)
def test_who_gets_whose_answer_is_what_the_definition_says(cache):
    hits = 0
    for seed in range(6):
        requests = asking(workload(seed, 150, isl=60, ties=seed % 2 == 0), seed)
        log = serve(requests, fleets()["unequal"], responses=cache).log_so_far()
        np.testing.assert_array_equal(log.answered.asks["got"], expected(log, requests, cache))
        hits += (log.answered.asks["got"] >= 0).sum()
    assert hits > 200


def troubled(seed, requests, pools, cache, concurrency, *, gated):
    """Leapt over and step by step, from seed to seed with more that goes wrong: replicas, clients
    that lose patience, a gate."""
    client = Client(retries=2, backoff_s=0.03, hedge_s=0.05, first_token_s=0.3,
                    retry_on=("rejection", "timeout"))  # fmt: skip
    gate = Policy(name="short_queue", params={"waiting": 2}) if gated else Policy(name="everyone")
    return both_ways(
        serve, requests, pools, responses=cache, concurrency=concurrency, gate=gate,
        commands=troubles(seed, pools) if seed > 1 else (), client=client if seed > 2 else None,
    )  # fmt: skip


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("concurrency", [None, 6])
def test_a_leap_equals_stepping_behind_a_cache_of_answers(cache, concurrency):
    hits = 0
    for seed in range(5):
        requests = asking(sharing(seed, 80, isl=60, ties=seed % 2 == 0), seed)
        if seed % 2:
            requests = woven(requests, seed)
        for pools in fleets().values():
            leapt = troubled(seed, requests, pools, cache, concurrency, gated=seed == 4)
            log = assert_laws(leapt, requests, all_sent=False)
            if seed % 2:
                assert_order(log, requests)
            hits += (log.requests["replica"] < 0)[log.requests["status"] == 0].sum()
    assert hits > 100


def test_what_was_given_is_the_answer_that_was_kept():
    for cache in CACHES:
        requests = asking(workload(3, 150, isl=60), 3)
        log = serve(requests, [pool(replicas=2)], responses=cache).log_so_far()
        rows, asks = log.requests, log.answered.asks
        given = rows["replica"] < 0
        np.testing.assert_array_equal(given, asks["got"] >= 0)
        source = rows[asks["got"][given]]
        np.testing.assert_array_equal(rows["n_out"][given], source["n_out"])
        found = rows["arrival_ps"][given] + round(cache.lookup_s * PS)
        assert (source["done_ps"] <= found).all()  # an answer that has not ended is not given
        np.testing.assert_array_equal(
            rows["first_token_ps"][given], found + round(cache.fetch_s * PS)
        )
        gap = PS / cache.rate_per_s if cache.rate_per_s else 0
        stream = (rows["n_out"][given].astype(np.int64) - 1) * round(gap)
        np.testing.assert_array_equal(
            rows["done_ps"][given], rows["first_token_ps"][given] + stream
        )
        if cache.ttl_s is not None:
            assert (source["done_ps"] + round(cache.ttl_s * PS) > found).all()


NOTHING_KEPT = [{"quota": 0}, {"ttl_s": 0}, {"quota_bytes": 0}, {"skip": True}]


@pytest.mark.parametrize("how", NOTHING_KEPT)
def test_a_cache_that_keeps_nothing_costs_its_lookups_and_nothing_else(how):
    for seed in range(3):
        requests = asking(sharing(seed, 60, isl=60, ties=True), seed)
        for pools in fleets().values():
            plain = serve(requests, pools).log_so_far()
            free = serve(requests, pools, responses=ResponseCache(embed_s=0, search_s=0, **how))
            same_bytes(plain, free.log_so_far())
    # with a lookup all come that much later
    later = replace(requests, arrival_s=requests.arrival_s + 0.007)
    cache = ResponseCache(embed_s=5e-3, search_s=2e-3, quota=0)
    slow = serve(requests, [pool(replicas=2)], responses=cache).log_so_far()
    shifted = serve(later, [pool(replicas=2)]).log_so_far()
    np.testing.assert_array_equal(slow.requests["done_ps"], shifted.requests["done_ps"])
    np.testing.assert_array_equal(slow.leaps["start_ps"], shifted.leaps["start_ps"])


def test_at_threshold_1_only_the_same_text_finds_an_answer():
    requests = asking(workload(2, 200, isl=60), 2)
    log = serve(requests, [pool(replicas=2)], responses=ResponseCache(threshold=1)).log_so_far()
    got = log.answered.asks["got"]
    assert (got >= 0).sum() > 20
    found = np.flatnonzero(got >= 0)
    np.testing.assert_array_equal(requests.wording[found], requests.wording[got[found]])
    # and where no text comes twice nothing is found: the log without a cache
    texts = np.arange(200)
    once = replace(requests, wording=texts, wordings=apart(texts, np.zeros(200, dtype=int)))
    free = ResponseCache(threshold=1, embed_s=0, search_s=0)
    same_bytes(
        serve(once, [pool(replicas=2)]).log_so_far(),
        serve(once, [pool(replicas=2)], responses=free).log_so_far(),
    )


def one_by_one(seed, n=400):
    """Requests of which each ends before the next one comes, and answers of one length."""
    draw = np.random.default_rng(seed)
    plain = Requests(np.arange(n) * 1.0, draw.integers(1, 40, n), np.full(n, 6))
    few = (Questions(topics=12, questions=3, wordings=3, skew=0.6, paraphrase=0.92, related=0.86),)
    return asking(plain, seed, few)


def counted(requests, **cache):
    log = serve(requests, [pool()], responses=ResponseCache(**cache)).log_so_far()
    got, question = log.answered.asks["got"], log.answered.question
    hit = got >= 0
    return int(hit.sum()), int((question[got[hit]] != question[hit]).sum())


def test_more_room_never_gives_fewer_hits_where_only_equal_texts_match():
    """Lru is a stack (Mattson et al., 1970): what a small cache holds, a larger one holds too."""
    for seed in range(4):
        requests = one_by_one(seed)
        hits = [counted(requests, threshold=1, quota=quota)[0] for quota in (0, 2, 8, 32, 128)]
        assert hits == sorted(hits)
        assert hits[-1] > 2 * hits[2] > 0
        sizes = [counted(requests, threshold=1, quota_bytes=4120 * q)[0] for q in (0, 2, 8, 32)]
        assert sizes == hits[:4]


def test_a_higher_threshold_gives_fewer_hits_and_fewer_wrong_ones():
    for seed in range(4):
        requests = one_by_one(seed)
        found = [counted(requests, threshold=t) for t in (0.7, 0.85, 0.9, 0.95, 1.0)]
        hits, wrong = zip(*found, strict=True)
        assert list(hits) == sorted(hits, reverse=True)
        assert list(wrong) == sorted(wrong, reverse=True)
        assert wrong[0] > 20
        assert wrong[-1] == 0  # the same text asks the same


def test_cosines_are_on_average_what_the_description_says():
    one = Questions(topics=300, questions=3, wordings=3, paraphrase=0.9, related=0.7)
    requests = asking(workload(1, 10), 1, (one,))
    table = requests.wordings
    text = np.repeat(np.arange(len(table)), np.diff(table.near_starts))
    same = table.question[text] == table.question[table.near]
    assert table.similarity[same].mean() == pytest.approx(0.9, abs=0.005)
    assert table.similarity[~same].mean() == pytest.approx(0.7, abs=0.01)
    falls = np.diff(table.similarity) <= 0
    falls[table.near_starts[1:-1] - 1] = True  # where the next text begins
    assert falls.all()


def test_popular_questions_come_as_often_as_zipf_says():
    one = Questions(topics=50, questions=2, wordings=1, skew=1.2)
    requests = asking(workload(1, 20_000), 1, (one,))
    count = np.sort(np.bincount(requests.wordings.question[requests.wording]))[::-1]
    weight = np.arange(1, 101) ** -1.2
    np.testing.assert_allclose(count[:5] / 20_000, (weight / weight.sum())[:5], rtol=0.06)


def three(at=(0.0, 1.0, 2.0), **how):
    """Texts 0 and 1 ask one thing, text 2 another one; cosines 0.98 and 0.92 of 0, 0.9 of 1."""
    place = np.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.4]])
    table = placed(np.array([0, 0, 1]), np.zeros(3, dtype=int), np.zeros(3, dtype=int), place)
    n = len(at)
    plain = Requests(np.array(at), np.full(n, 16), np.arange(2, 2 + n))
    return replace(plain, wording=np.arange(n) % 3, wordings=table, **how)


def test_the_answer_of_the_most_alike_text_is_given():
    log = serve(three(), [pool()], responses=ResponseCache(threshold=0.91)).log_so_far()
    assert log.answered.asks["got"].tolist() == [-1, 0, 0]  # the third is another question's
    assert log.requests["n_out"].tolist() == [2, 2, 2]
    log = serve(three(), [pool()], responses=ResponseCache(threshold=0.95)).log_so_far()
    assert log.answered.asks["got"].tolist() == [-1, 0, -1]
    log = serve(three(), [pool()], responses=ResponseCache(threshold=0.99)).log_so_far()
    assert log.answered.asks["got"].tolist() == [-1, -1, -1]
    assert log.answered.asks["n_missed"].tolist() == [0, 1, 0]  # a right one was kept


def test_an_answer_is_found_from_its_end_until_its_time_is_over():
    end = serve(three(), [pool()]).log_so_far().requests["done_ps"][0] / PS
    cache = ResponseCache(threshold=0.9, ttl_s=0.5, embed_s=0, search_s=0)
    for at, found in ((end - 1e-6, -1), (end + 1e-6, 0), (end + 0.499, 0), (end + 0.501, -1)):
        log = serve(three((0.0, at)), [pool()], responses=cache).log_so_far()
        assert log.answered.asks["got"][1] == found


def test_another_models_answer_is_not_given():
    from families import model_fleets

    requests = three(model=np.array([0, 1, 0]))
    log = serve(requests, model_fleets()["apart"], responses=ResponseCache()).log_so_far()
    assert log.answered.asks["got"].tolist() == [-1, -1, 0]


def test_an_answer_that_nobody_took_is_not_kept():
    requests = three((0.0, 3.0), osl=np.array([400, 4]))
    log = serve(
        requests, [pool(n_blocks=200)], responses=ResponseCache(), client=Client(give_up_s=0.1)
    ).log_so_far()
    assert log.requests["status"].tolist() == [2, 0]
    assert log.answered.asks["got"].tolist() == [-1, -1]


def test_what_is_too_long_for_the_fleet_can_be_answered_all_the_same():
    requests = three((0.0, 1.0), isl=np.array([16, 5000]))
    log = serve(requests, [pool()], responses=ResponseCache()).log_so_far()
    assert log.requests["status"].tolist() == [0, 0]
    without = serve(requests, [pool()]).log_so_far()
    assert without.requests["status"].tolist() == [0, 1]


def test_requests_that_say_nothing_and_categories_that_nobody_is_of_are_refused():
    with pytest.raises(SpecError, match="do not say what they ask"):
        serve(workload(1, 5), [pool()], responses=ResponseCache())
    cache = ResponseCache(categories={"cod": {"ttl_s": 3}})
    with pytest.raises(SpecError, match="no request is of the category 'cod'"):
        serve(asking(workload(1, 5)), [pool()], responses=cache)


def test_more_room_can_find_less_among_paraphrases():
    """An old answer that a small cache has dropped stands in the way of a better placed one."""
    draw = np.random.default_rng(24)
    plain = Requests(np.arange(60) * 1.0, draw.integers(1, 40, 60), np.full(60, 6))
    words = Questions(topics=1, questions=2, wordings=8, skew=0, related=0.9, dimensions=2)
    requests = asking(plain, 24, (words,))
    two, three = (counted(requests, threshold=0.93, quota=quota)[0] for quota in (2, 3))
    assert three < two


def composed():
    """Fleets with another mechanism beside the cache: tiers, swaps, turns, proposals, own caps."""
    from families import asking as for_models
    from families import turning
    from speculating import kinds
    from test_cap_laws import capped, picking, without_caching
    from test_tier_laws import DRAM, with_engine

    one = fleets()["one"]
    yield "tiers", one, {"tiers": [DRAM]}, lambda r, seed: r
    swaps = without_caching(one, preemption="swap", kept_tokens=50)
    yield "swaps", swaps, {"tiers": [DRAM]}, lambda r, seed: r
    yield "caps", picking(without_caching(one)), {}, lambda r, seed: capped(r, seed)
    yield "static", with_engine(one, batch=Policy(name="static")), {}, lambda r, seed: r
    turns = turning(replicas=2, n_resident=2)
    yield "turns", turns, {}, lambda r, seed: for_models(r, 3, seed)
    for name, pools in kinds(n_blocks=30).items():
        yield name, pools, {}, lambda r, seed: r


@pytest.mark.parametrize("case", list(composed()), ids=lambda case: case[0])
def test_a_leap_equals_stepping_behind_a_cache_beside_other_mechanisms(case):
    _, pools, settings, change = case
    pools = pools if isinstance(pools, list) else [pools]
    hits = 0
    for seed in range(4):
        make = sharing if case[0] == "tiers" else workload
        requests = change(asking(make(seed, 70, isl=60, ties=seed % 2 == 0), seed), seed)
        leapt = both_ways(serve, requests, pools, responses=CACHES[seed], **settings)
        log = assert_laws(leapt, requests)
        hits += (log.answered.asks["got"] >= 0).sum()
    assert hits > 20


@pytest.mark.parametrize("cache", CACHES)
def test_an_answer_is_given_again_for_the_adapter_that_gave_it(cache):
    hits = 0
    for seed in range(3):
        requests = naming(asking(sharing(seed, 120, isl=40, ties=seed % 2 == 0), seed), 4, seed)
        for way in ("beside", "in step, in order"):
            pools = fitted(fleets()["unequal"], n=4, **WAYS[way])
            leapt = both_ways(serve, requests, pools, responses=cache)
            log = assert_laws(leapt, requests)
            got = log.answered.asks["got"]
            r = np.flatnonzero(got >= 0)
            np.testing.assert_array_equal(requests.adapter[r], requests.adapter[got[r]])
            hits += len(r)
    assert hits > 20
    plain = serve(asking(sharing(0, 120, isl=40)), fitted(fleets()["one"]), responses=cache)
    none = serve(asking(sharing(0, 120, isl=40)), fleets()["one"], responses=cache)
    same_bytes(plain.log_so_far(), none.log_so_far())
