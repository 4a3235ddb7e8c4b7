"""Small fleets with encoders and requests with images, for the laws of the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import pool, sharing
from serving import table


def encoder(*, replicas=1, n_blocks=60, name="e", flat=3e-3, **how):
    """A pool that encodes; a token is 1,000 bytes of embeddings."""
    how = {"max_num_batched_tokens": 64, "max_num_seqs": 8, **how}
    costs = table(64, 8, flat=flat)
    one = pool("encode", name, costs=costs, replicas=replicas, n_blocks=n_blocks, **how)
    return one


def in_front(pools, flat=3e-3):
    """The same pools, those that compute prompts with an encoder in front of the model."""
    rows = []
    out = []
    for one in pools:
        if one.pool.role == "decode":
            out.append(one)
            continue
        row = encoder(n_blocks=0, name=f"{one.pool.name} encoder", flat=flat)
        rows.append(replace(row, pool=row.pool.model_copy(update={"replicas": 0})))
        out.append(replace(one, encoder=len(pools) + len(rows) - 1))
    return [*out, *rows]


def seeing_fleets():
    """Encoders in front of one pool, of prompts apart from answers; on a pool of their own."""
    one = [pool(replicas=2, n_blocks=40)]
    split = [
        pool("prefill", "p", replicas=2, n_blocks=40),
        pool("decode", "d", replicas=2, n_blocks=40),
    ]
    return {
        "in front": in_front(one),
        "in front of prompts": in_front(split),
        "apart": [encoder(replicas=2), *one],
        "apart and tight": [encoder(n_blocks=16), *one],
        "encode, prefill, decode": [encoder(), *split],
    }


def looking(seed, n, *, share=0.6, most=3, **settings):
    """Requests that share prefixes, of which some begin with up to `most` images."""
    requests = sharing(seed, n, **settings)
    draw = np.random.default_rng(seed + 5)
    items = np.where(draw.random(n) < share, draw.integers(1, most + 1, n), 0)
    units = draw.choice([8, 12, 20], n)
    tokens = units // 4
    return replace(
        requests,
        isl=requests.isl + items * tokens,
        n_items=items,
        item_units=np.where(items > 0, units, 0),
        item_tokens=np.where(items > 0, tokens, 0),
    )


def naming(requests, n, seed=0):
    """The same requests, whose items are some of n of each size, the first ones more often."""
    draw = np.random.default_rng(seed + 11)
    count = int(requests.n_items.sum())
    size = np.repeat(requests.item_units, requests.n_items)
    names = np.minimum(draw.geometric(3 / n, count), n) + 1000 * size
    return replace(
        requests,
        item_names=np.where(draw.random(count) < 0.1, -1, names),
        item_starts=np.concatenate([[0], np.cumsum(requests.n_items)]),
    )
