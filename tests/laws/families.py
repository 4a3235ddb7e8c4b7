"""Small fleets of several models for the laws of the core: apart, in turn, both, split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import pool
from serving import table

from forerun.spec.deployment import Policy


def turning(
    n_models=3, *, n_resident=1, load_s=0.05, base=False, first=0, group=0, replicas=1, **how
):
    """Rows of one pool whose replicas run `n_models` models in turn, the first at the start.

    Each next model has slower steps and less memory; a model's own part is a fifth of its weights.
    """
    how = {"n_blocks": 30, **how}
    role, name = how.pop("role", "both"), how.pop("name", f"pool{group}")
    rows = []
    for m in range(n_models):
        slower = table(flat=(2 + m) * 1e-3)
        blocks = {"n_blocks": how["n_blocks"] - m}
        one = pool(role, name, costs=slower, **{**how, **blocks})
        own = replicas if m == first else 0
        rows.append(
            replace(
                one,
                pool=one.pool.model_copy(update={"replicas": own}),
                model=m,
                group=group,
                n_resident=n_resident,
                blocks=((0, 0.8),) if base else (),
                load_s=load_s,
                load_bytes=1e6,
            )
        )
    return rows


def fixed(m, *, replicas=1, role="both", **how):
    one = pool(role, f"{role}{m}", replicas=replicas, n_blocks=28, **how)
    return replace(one, model=m)


def asking(requests, n_models, seed=0):
    """The same requests, each for a random model."""
    draw = np.random.default_rng(seed + 7)
    return replace(requests, model=draw.integers(0, n_models, len(requests)))


def model_fleets(**how):
    """Pools of a model each; one that takes turns; both; turns on either side of a split."""
    return {
        "apart": [fixed(0, replicas=2), fixed(1), fixed(2, costs=table(flat=4e-3))],
        "turns": turning(replicas=2, **how),
        "both": [*turning(replicas=2, **how), fixed(1)],
        "split": [
            *turning(replicas=2, role="prefill", name="p", **how),
            *turning(replicas=2, first=1, group=1, role="decode", name="d", **how),
        ],
    }


def engine_turn(pools, turn):
    """The same pools with another turn policy."""
    policy = Policy(name=turn, params={"wait_s": 0.2} if turn == "patience" else {})
    out = []
    for one in pools:
        engine = one.pool.engine.model_copy(update={"turn": policy})
        out.append(replace(one, pool=one.pool.model_copy(update={"engine": engine})))
    return out
