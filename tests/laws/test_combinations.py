"""Every pair of mechanisms on one small case, by the road that a user takes: the laws hold, or a
sentence says why they do not go together.

Which pairs are refused stands in docs/background/combinations.md, with the sentences; after a
change of either: PYTHONPATH=tests/laws python tests/laws/test_combinations.py
"""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import assert_laws, assert_same, assert_tells_the_same
from mechanisms import Mechanism, case_of, found, nothing

from forerun import api
from forerun.cost.price import price
from forerun.errors import ForerunError
from forerun.sim import diffusion, drafts, prepare, serve

PAGE = Path(__file__).parents[2] / "docs" / "background" / "combinations.md"
ALL = found()
BY_NAME = {one.name: one for one in ALL}
N_TRIPLES = 150


@pytest.fixture(autouse=True)
def _prices_are_kept(monkeypatch):
    """Tables are priced once for all cases that have the same graph."""
    keep_prices(monkeypatch.setattr)


def keep_prices(put) -> None:
    for module in (prepare, drafts, diffusion):
        put(module, "price", remembered)


PRICES: dict[bytes, Any] = {}


def remembered(graph, device, **how):
    key = pickle.dumps((graph, device, sorted(how.items())))
    if key not in PRICES:
        PRICES[key] = price(graph, device, **how)
    return PRICES[key]


@dataclass
class Run:
    server: serve.Server
    result: api.Result


def run(mechanisms, *, leap=True, case=None, **changes) -> Run:
    """What `api.simulate` answers, and the server that it ran.  Raises ForerunError."""
    servers = []
    asked = api._simulate.requests

    def named(case):
        out = asked(case)
        for one in sorted(mechanisms, key=lambda one: one.name):
            out = one.column(out) if one.column is not None else out
        return out

    def watched(*args, **settings):
        servers.append(serve_class(*args, **settings, leap=leap))
        return servers[-1]

    serve_class = serve.Server
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api._simulate, "requests", named)
        patch.setattr(serve, "Server", watched)
        loaded = api.load((case or case_of(mechanisms)) | changes)
        result = api.simulate(loaded, bootstrap=False)
    return Run(servers[0], result)


def check(*mechanisms: Mechanism, again: bool = False) -> str | None:
    """The laws of these mechanisms together, or the sentence that refuses them.

    Whether the same seed gives the same is seen in steps and leaps; again : byte by byte too.
    """
    try:
        first = run(mechanisms)
    except ForerunError as error:
        return sentence(error)
    log = assert_laws(first.server, first.result.requests)
    assert_capacity(first.server, log)
    assert_tells_the_same(first.server, run(mechanisms, leap=False).server)
    if again:
        assert_bytes(log, run(mechanisms).server.log_so_far())
    for one in mechanisms:
        if one.law is not None:
            one.law(first.result)
    return None


def assert_capacity(server, log) -> None:
    """No step has more sequences or tokens than its row, no replica more blocks."""
    engines = server._state.engines[log.leaps["pool"]]
    assert (log.leaps["n_seqs"] <= engines["max_seqs"]).all()
    assert (log.leaps["n_tokens"] <= engines["max_tokens"]).all()
    # a row that encodes in front of the model has no memory of its own
    own = server._state.engines["n_blocks"][log.pool_of_replica[log.leaps["replica"]]]
    most = np.where(engines["n_blocks"] > 0, engines["n_blocks"], own)
    assert (log.leaps["n_blocks"] <= most).all()
    for album in server._state.albums:
        assert album.peak_bytes <= album.most_bytes


def assert_bytes(a, b) -> None:
    for name in ("requests", "leaps", "gaps", "replicas"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name


def sentence(error: ForerunError) -> str:
    """What refuses: the first problem, without its place, which names pools."""
    return " ".join(error.problems[0].what.split())


def together(one: Mechanism, other: Mechanism) -> bool:
    return one.slot is None or one.slot != other.slot


@cache
def refused() -> dict[frozenset[str], str]:
    """The table of the page: pairs of names, and why."""
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines()]
    return {frozenset(row[:2]): row[2] for row in rows if len(row) == 3 and row[0] in BY_NAME}


def shows(one: Mechanism) -> bool:
    """Whether requests fare otherwise with the mechanism than with its columns alone."""
    bare = Mechanism(one.name, column=one.column) if one.change is not nothing else Mechanism("")
    logs = [run((each,)).server.log_so_far() for each in (bare, one)]
    return logs[0].requests.tobytes() != logs[1].requests.tobytes()


# -- one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_a_mechanism_keeps_the_laws_alone_and_shows(name):
    assert check(BY_NAME[name], again=True) is None
    assert shows(BY_NAME[name]), "the small case does not show this mechanism"


@pytest.mark.parametrize("name", [one.name for one in ALL if one.neutral is not None])
def test_a_neutral_setting_writes_the_log_of_the_plain_engine(name):
    one = BY_NAME[name]
    off = Mechanism(one.name, one.neutral)
    assert_same(run((off,)).server.log_so_far(), run(()).server.log_so_far())


# -- two by two --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_a_mechanism_and_every_other_one_keep_the_laws_or_are_refused_with_a_sentence(name):
    at = ALL.index(BY_NAME[name])
    for other in ALL[at + 1 :]:
        if together(ALL[at], other):
            why = check(ALL[at], other)
            assert why == refused().get(frozenset((name, other.name))), other.name


def test_the_page_names_no_pair_that_does_not_exist():
    for pair in refused():
        assert len(pair) == 2
        assert pair <= BY_NAME.keys()
        assert together(*(BY_NAME[name] for name in pair))


@pytest.mark.slow
def test_mechanisms_by_three_keep_the_laws_unless_two_of_them_are_refused():
    draw = random.Random(0)
    done = 0
    while done < N_TRIPLES:
        three = draw.sample(ALL, 3)
        pairs = list(combinations(three, 2))
        if not all(together(*pair) for pair in pairs):
            continue
        if any(frozenset(one.name for one in pair) in refused() for pair in pairs):
            continue
        why = check(*three, again=True)
        assert why is None, ([one.name for one in three], why)
        done += 1


# -- the page ----------------------------------------------------------------------------------


def write_page() -> None:
    """Put the pairs that are refused now into the page's table."""
    rows = []
    for one, other in combinations(ALL, 2):
        if not together(one, other):
            continue
        try:
            why = check(one, other)
        except Exception as error:
            print(f"FAILS {one.name} | {other.name}: {type(error).__name__} {str(error)[:300]}")
            continue
        if why is not None:
            rows.append(f"| {one.name} | {other.name} | {why} |")
    head, _, _ = PAGE.read_text().partition("<!-- table -->")
    table = ["| mechanism | mechanism | why not |", "|---|---|---|", *rows]
    PAGE.write_text(f"{head}<!-- table -->\n\n" + "\n".join(table) + "\n")
    print(f"{len(rows)} pairs are refused")


if __name__ == "__main__":
    keep_prices(setattr)
    write_page()
