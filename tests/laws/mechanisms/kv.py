"""What is kept of KV, where, and what becomes of it when memory is short."""

from __future__ import annotations

import dataclasses

import numpy as np

from forerun.spec.requests import Requests
from mechanisms import Case, Mechanism, engines, part

BLOCK = 32  # tokens of a prefix block

TIERS = [
    {"tier": "dram", "capacity_bytes": "100 MB", "link": "pcie3-x16"},
    {"tier": "pool", "capacity_bytes": "400 MB", "shared_by": "fleet"},
]


def sharing(requests: Requests) -> Requests:
    """Prompts that begin like one of three others, each for a part of its length."""
    if requests.block_hashes is not None:
        return requests
    draw = np.random.default_rng(5)
    n_blocks = requests.isl // BLOCK
    hashes = []
    for i, n in enumerate(n_blocks.tolist()):
        root, shared = int(draw.integers(0, 3)), int(draw.integers(0, n + 1))
        hashes += [root * 1000 + b for b in range(shared)]
        hashes += [(i + 1) * 100_000 + b for b in range(shared, n)]
    return dataclasses.replace(
        requests,
        block_hashes=np.array(hashes, dtype=np.int64),
        block_starts=np.concatenate([[0], np.cumsum(n_blocks)]).astype(np.int64),
        hash_tokens=BLOCK,
    )


def tiers(case: Case) -> None:
    case["deployment"].setdefault("kv_tiers", TIERS)


def swap(case: Case) -> None:
    tiers(case)
    engines(preemption="swap", n_blocks=80)(case)


def anywhere(case: Case) -> None:
    tiers(case)
    engines(reuse="anywhere")(case)
    case["traffic"]["documents"] = {"n": 6, "tokens": 64, "a_request": 2}


def fetch_faster(case: Case) -> None:
    tiers(case)
    case["deployment"]["fetch"] = "faster"


MECHANISMS = [
    Mechanism("prefix caching", column=sharing, neutral=engines(prefix_caching=False)),
    Mechanism("KV tiers", tiers, part("deployment", kv_tiers=[]), column=sharing),
    Mechanism("swap", swap, column=sharing),
    Mechanism("chunk reuse", anywhere),
    Mechanism("kept tokens", engines(kept_tokens=128), engines(kept_tokens=100_000)),
    Mechanism("attended tokens", engines(attended_tokens=128), engines(attended_tokens=100_000)),
    Mechanism("reserve for whole answers", engines(reserve="full"), engines(reserve="chunk")),
    Mechanism("fetch what is faster", fetch_faster, column=sharing),
]
