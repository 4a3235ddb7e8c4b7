"""Laws of a response cache that learns who is like enough, to hold an error that may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fleets import assert_laws, fleets, pool, serve, sharing
from serving import PS, workload
from test_response_laws import asking, same_bytes, troubled

from forerun.sim.core import doubt
from forerun.spec.caches import ResponseCache
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.workload import Client, Questions

LEARNING = [
    ResponseCache(max_error=0.3),
    ResponseCache(max_error=0.5, quota=12, ttl_s=0.6, fetch_s=0.02, rate_per_s=500),
    ResponseCache(max_error=0.4, categories={"chat": {"threshold": 0.9}}),
    ResponseCache(threshold=0.9, categories={"code": {"max_error": 0.4}}),
]
MANY = Questions(topics=40, questions=3, wordings=40, skew=0.6, paraphrase=0.95, related=0.85)
HARD = Questions(topics=40, questions=3, wordings=40, skew=0.6, paraphrase=0.9, related=0.88)


def one_by_one(seed, n, questions=MANY):
    """Requests of which each has ended before the next one comes."""
    draws = np.random.default_rng(seed)
    plain = Requests(np.arange(n) * 1.0, draws.integers(1, 40, n), np.full(n, 6))
    return asking(plain, seed, (questions,))


def told(requests, seed=0, **cache):
    log = serve(requests, [pool()], responses=ResponseCache(**cache), seed=seed).log_so_far()
    return log.answered


def fates(requests, answered):
    """Of each request: a hit, a hit of another text, a wrong one, computed to learn."""
    got = answered.asks["got"]
    hit, from_ = got >= 0, np.maximum(got, 0)
    other = hit & (requests.wording != requests.wording[from_])
    wrong = hit & (answered.question != answered.question[from_])
    return hit, other, wrong, answered.asks["n_explored"] > 0


def drawn(key, a, b):
    """The uniform number of a pair: splitmix64 twice, in whole numbers."""
    z, step, most = key, 0x9E3779B97F4A7C15, 2**64 - 1
    for n in (a, b):
        z = (z + (n + 1) * step) & most
        for shift, times in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = ((z ^ (z >> shift)) * times) & most
        z ^= z >> 31
    return (z >> 11) / 2**53


def expected(requests, max_error, seed):
    """Who gets an answer by the definition, one request after another in one category."""
    table = requests.wordings
    key = int(stream(seed, "doubts").integers(0, 2**63, 1, dtype=np.uint64)[0])
    kept, tried = set(), np.zeros((1, doubt.N_BINS, 2), dtype=np.int64)
    got_one, explored = [], []
    for r, w in enumerate(requests.wording.tolist()):
        at = slice(table.near_starts[w], table.near_starts[w + 1])
        alike = list(zip(table.similarity[at], table.near[at].tolist(), strict=True))
        best = next(((s, k) for s, k in alike if k in kept), None)
        explores = False
        if w not in kept and best is not None:
            similarity, k = best
            b = min(max(math.floor(similarity * 64), 0), 63)
            bound = -math.inf
            for a in range(b, -1, -1):
                n, right = tried[0, a : b + 1].sum(axis=0).tolist()
                if n >= 6 and tried[0, a, 0]:
                    for eps, z in doubt.QUANTILES:
                        p = right / n
                        half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
                        low = (p + z**2 / (2 * n) - half) / (1 + z**2 / n)
                        bound = max(bound, (1 - eps) * low)
            tau = max(0.0, 1 - max_error / (1 - bound))
            explores = drawn(key, r, 1) < tau
            if explores:
                tried[0, b] += (1, int(table.question[w] == table.question[k]))
        got_one.append(w in kept or (best is not None and not explores))
        explored.append(explores)
        if not got_one[-1]:
            kept.add(w)
    return np.array(got_one), np.array(explored)


@pytest.mark.parametrize("max_error", [0.02, 0.1, 0.4])
def test_who_is_computed_to_learn_is_what_the_definition_says(max_error):
    for seed in range(2):
        requests = one_by_one(seed, 500)
        answered = told(requests, seed, max_error=max_error)
        hit, explored = expected(requests, max_error, seed)
        np.testing.assert_array_equal(answered.asks["got"] >= 0, hit)
        np.testing.assert_array_equal(answered.asks["n_explored"], explored)
        assert explored.sum() > 50


@pytest.mark.parametrize("questions", [MANY, HARD])
@pytest.mark.parametrize("max_error", [0.01, 0.03, 0.1])
def test_no_more_requests_than_said_get_a_wrong_answer_in_the_long_run(questions, max_error):
    """Of requests that something kept is like; three standard deviations of chance are allowed."""
    wrong = among = 0
    for seed in range(6):
        requests = one_by_one(seed, 6000, questions)
        answered = told(requests, seed, max_error=max_error)
        _, other, is_wrong, explored = fates(requests, answered)
        wrong += int(is_wrong.sum())
        among += int((other | explored).sum())
    assert wrong <= max_error * among + 3 * math.sqrt(max_error * among)
    assert wrong > 0
    # a threshold that was not chosen for these texts gives more
    requests = one_by_one(0, 6000, questions)
    _, other, is_wrong, _ = fates(requests, told(requests, threshold=0.8))
    assert is_wrong.sum() > max_error * other.sum()


def test_every_cosine_has_a_bin():
    bin_of = getattr(doubt.bin_of, "py_func", doubt.bin_of)
    cosines = (-1.0, -0.01, 0.0, 0.5, 63 / 64, 1.0, 1.0 + 1e-12)
    assert [bin_of(one) for one in cosines] == [0, 0, 0, 32, 63, 63, 63]


def test_more_is_given_as_more_is_learnt():
    requests = one_by_one(3, 12_000)
    hit, other, _, explored = fates(requests, told(requests, max_error=0.05))
    parts = [slice(0, 500), slice(500, 3000), slice(3000, 12_000)]
    share = [other[part].sum() / (other | explored)[part].sum() for part in parts]
    assert share == sorted(share)
    assert share[-1] > 2 * share[0]
    assert (hit & explored).sum() == 0  # a request is given an answer, or computed to learn


def test_a_larger_error_explores_less():
    requests = one_by_one(1, 4000)
    counts = [
        int(told(requests, max_error=e).asks["n_explored"].sum()) for e in (0.01, 0.05, 0.2, 0.6)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 3 * counts[-1]


def test_where_no_error_may_be_only_the_same_text_finds_an_answer():
    """All the others are computed: the log of threshold 1."""
    for seed in range(3):
        requests = asking(sharing(seed, 150, isl=60, ties=seed % 2 == 0), seed)
        for pools in fleets().values():
            least = serve(requests, pools, responses=ResponseCache(max_error=1e-12)).log_so_far()
            fixed = serve(requests, pools, responses=ResponseCache(threshold=1)).log_so_far()
            same_bytes(least, fixed)
            explored = least.answered.asks["n_explored"]
            assert explored.sum() > 5
            assert not fixed.answered.asks["n_explored"].any()


def test_a_category_with_a_threshold_of_its_own_learns_nothing():
    requests = asking(workload(2, 300, isl=60), 2)
    own = {name: {"threshold": 0.85} for name in ("chat", "code")}
    cache = ResponseCache(max_error=0.3, categories=own)
    fixed = serve(requests, [pool(replicas=2)], responses=ResponseCache(threshold=0.85))
    learns = serve(requests, [pool(replicas=2)], responses=cache).log_so_far()
    same_bytes(learns, fixed.log_so_far())
    assert not learns.answered.asks["n_explored"].any()


def test_nothing_is_learnt_from_a_request_that_nobody_waited_for():
    """A match is judged by an answer; one that never ends says nothing."""
    requests = asking(workload(4, 300, isl=60), 4)
    log = serve(
        requests, [pool(n_blocks=200)], responses=ResponseCache(max_error=1e-12),
        client=Client(give_up_s=0.04),
    ).log_so_far()  # fmt: skip
    asks = log.answered.asks
    lost = log.requests["status"][np.argsort(log.requests["request"])] != 0
    explored = asks["n_explored"] > 0
    np.testing.assert_array_equal(asks["doubted"][explored] >= 0, lost[explored])
    assert 0 < lost[explored].sum() < explored.sum()


@pytest.mark.parametrize("cache", LEARNING)
@pytest.mark.parametrize("concurrency", [None, 6])
def test_a_leap_equals_stepping_behind_a_cache_that_learns(cache, concurrency):
    hits = explored = 0
    for seed in range(4):
        requests = asking(sharing(seed, 160, isl=60, ties=seed % 2 == 0), seed)
        for pools in fleets().values():
            leapt = troubled(seed, requests, pools, cache, concurrency, gated=seed == 3)
            log = assert_laws(leapt, requests, all_sent=False)
            hits += (log.requests["replica"] < 0)[log.requests["status"] == 0].sum()
            explored += log.answered.asks["n_explored"].sum()
    assert hits > 100
    assert explored > 100


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    requests = one_by_one(5, 800)
    found = [told(requests, seed, max_error=0.1).asks.tobytes() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_what_is_given_comes_as_long_after_as_with_a_threshold():
    requests = one_by_one(6, 800)
    cache = ResponseCache(max_error=0.3, fetch_s=0.01)
    log = serve(requests, [pool()], responses=cache).log_so_far()
    rows = log.requests[log.requests["replica"] < 0]
    assert len(rows) > 100
    took = rows["done_ps"] - rows["arrival_ps"]
    assert (took == round((cache.lookup_s + cache.fetch_s) * PS)).all()
