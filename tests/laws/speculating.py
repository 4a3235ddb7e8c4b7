"""Pools that propose tokens, for the laws: costs with several queries, drafts of all kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fleets import pool
from serving import table

from forerun.cost.table import Verify, grid
from forerun.sim.speculation import drafting
from forerun.spec.deployment import Policy
from forerun.spec.speculation import Speculation


def verified(costs, most=9, *, growth=0.2):
    """The table with queries: attention of q queries is 1 + growth (q - 1) times that of one."""
    queries = 2 ** np.arange(int(np.ceil(np.log2(most))) + 1)
    ratio = np.ones_like(costs.time_s.decode) * (1 + growth * (queries - 1))[:, None, None]
    sampled = min(costs.max_tokens, costs.max_seqs * most)
    beyond = np.maximum(1.0, grid(sampled) / costs.max_seqs)
    names = ("time_s", "flop", "hbm_bytes", "energy_j")
    return replace(
        costs,
        verify=Verify(queries, dict.fromkeys(names, ratio), sampled, dict.fromkeys(names, beyond)),
    )


def speculating(
    *, kind="draft", k=3, acceptance=0.7, tree=(), policy="fixed", params=None, apart=False,
    draft_flat=2e-4, trip_s=0.0, seq_s=0.0, growth=0.2, costs=None, role="both", name="main",
    **engine,
):  # fmt: skip
    """A pool whose engine proposes k tokens, with a draft ten times as fast as the target."""
    given = {"draft": "tiny"} if kind == "draft" else {}
    said = Speculation(kind=kind, k=k, acceptance=acceptance, tree=tree, **given)
    nodes = sum(said.levels[1:])
    one = pool(
        role, name, costs=verified(costs or table(), max(nodes + 1, 2), growth=growth),
        speculation=said, speculate=Policy(name=policy, params=params or {}), **engine,
    )  # fmt: skip
    if k == 0:
        return one
    small = verified(table(flat=draft_flat, token=draft_flat / 20, ctx=3e-7), growth=growth)
    given = {"draft": small, "draft_apart": apart} if kind != "ngram" else {}
    return replace(
        one,
        table=replace(one.table, **given),
        draft=replace(drafting(said, trip_s), seq_s=seq_s),
    )


def kinds(**engine):
    """One pool of every way to speculate."""
    return {
        "draft": [speculating(replicas=2, **engine)],
        "ngram": [speculating(kind="ngram", k=4, seq_s=1e-5, policy="acceptance", **engine)],
        "tree": [speculating(k=None, tree=(3, 2), acceptance={"beta": [4, 2]}, **engine)],
        "goodput": [speculating(k=5, policy="goodput", acceptance={"beta": [2, 2]}, **engine)],
        "apart": [speculating(apart=True, trip_s=1e-4, acceptance=[0.9, 0.6], **engine)],
        "small": [speculating(policy="small_batch", params={"most_seqs": 3}, **engine)],
        "full": [speculating(reserve="full", batch="prefill_first", **engine)],
        "static": [speculating(batch="static", reserve="prompt", **engine)],
        "split": [
            pool("prefill", "p", replicas=2, n_blocks=26),
            speculating(role="decode", name="d", replicas=2, **engine),
        ],
        "some": [speculating(replicas=2, **engine), pool("both", "plain", n_blocks=26)],
    }
