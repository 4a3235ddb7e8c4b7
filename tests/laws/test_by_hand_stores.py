"""Which prefix block is dropped, against the rule as one would say it."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import pool, prompts, serve

FIRST = {  # what goes first: the smallest of (times used, last used, added)
    "lru": lambda uses, last, added: last,
    "fifo": lambda uses, last, added: added,
    "lfu": lambda uses, last, added: (uses, last),
}


def found(keys, rule, most):
    """For each of these keys whether it is kept when it is asked for; at most `most` beside it."""
    kept, out = {}, []
    for now, key in enumerate(keys):
        uses, _, added = kept.pop(key, (0, now, now))
        out.append(uses > 0)
        if len(kept) > most:
            del kept[min(kept, key=lambda other: FIRST[rule](*kept[other]))]
        kept[key] = (uses + 1, now, added)
    return out


@pytest.mark.parametrize("rule", FIRST)
@pytest.mark.parametrize(("seed", "most", "n"), [(1, 3, 7), (2, 6, 11), (3, 9, 14)])
def test_the_block_that_goes_first_is_the_one_that_the_rule_says(rule, seed, most, n):
    """One request a second, of a prefix block (2 blocks of memory) and one block more, so that
    2 * most + 3 blocks keep `most` beside it; some blocks are asked for more often."""
    draw = np.random.default_rng(seed)
    keys = (n * draw.random(100) ** 1.7).astype(int).tolist()
    requests = prompts(*([k] for k in keys), at=np.arange(len(keys)), isl=9, osl=2)
    server = serve(requests, [pool(n_blocks=2 * most + 3, evict=rule)])
    wanted = found(keys, rule, most)
    assert 20 < sum(wanted) < 80
    assert (server.log_so_far().requests["cached"] == 8).tolist() == wanted
    assert server._state.stores["n_evicted"][0] == 100 - sum(wanted) - (most + 1)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("lru", [0, 0, 1, 1, 0, 1, 0, 1, 0]),  # 1 was used before 0 and 2
        ("fifo", [0, 0, 1, 1, 0, 1, 0, 0, 0]),  # 0 was added first, then 1
        ("lfu", [0, 0, 1, 1, 0, 1, 0, 1, 0]),  # all twice, 1 longest ago
    ],
)
def test_of_three_that_were_used_twice_a_fourth_drops_the_one_that_the_rule_says(rule, wanted):
    keys = [0, 1, 1, 0, 2, 2, 3, 0, 1]
    requests = prompts(*([k] for k in keys), at=np.arange(9), isl=9, osl=2)
    log = serve(requests, [pool(n_blocks=7, evict=rule)]).log_so_far()
    assert (log.requests["cached"] == 8).astype(int).tolist() == wanted
    assert found(keys, rule, 2) == [bool(one) for one in wanted]
