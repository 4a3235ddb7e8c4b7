"""Prompts that show images: who encodes them, and embeddings that are kept."""

from __future__ import annotations

import copy
from typing import Any

from mechanisms import Case, Mechanism, join

MODEL = "qwen3-vl-30b-a3b"  # the same decoder, and an encoder


def images(case: Case, **media: Any) -> None:
    """One or two images of 64 tokens before most prompts."""
    case["model"] = MODEL
    n = {"kind": "uniform", "mean": 1.5, "low": 1, "high": 2}
    case["traffic"]["media"] = {"share": 0.6, "n": n, "size": "256x256", **media}


def encoders(case: Case) -> None:
    """A pool that encodes, laid out like the first one."""
    pools = case["deployment"]["pools"]
    first = {k: v for k, v in copy.deepcopy(pools[0]).items() if k not in ("role", "stream_kv")}
    pools.append(first | {"name": "eyes", "role": "encode", "replicas": 1})


def apart(case: Case) -> None:
    images(case)
    encoders(case)


def keeping(case: Case, **how: Any) -> None:
    images(case, distinct=6)
    join(case["deployment"], {"embedding_cache": {"capacity_bytes": "1 MB", **how}})


def of_the_fleet(case: Case) -> None:
    keeping(case, memory="fleet", bandwidth_bytes_per_s="2 GB/s", latency_s="1 ms")
    encoders(case)


def encoded(result: Any) -> None:
    """Every image was computed, found, or spared by a prefix that held its tokens."""
    done = result.log.encodes
    assert done["n_items"].sum() > 0
    assert (done["n_found"] <= done["n_asked"]).all()


MECHANISMS = [
    Mechanism("images", images, slot="images", first=True, law=encoded),
    Mechanism("images apart", apart, slot="images", first=True, law=encoded),
    Mechanism("kept embeddings", keeping, slot="images", first=True, law=encoded),
    Mechanism("embeddings of the fleet", of_the_fleet, slot="images", first=True, law=encoded),
]
