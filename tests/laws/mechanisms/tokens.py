"""Tokens that are proposed, and how steps are formed."""

from __future__ import annotations

from mechanisms import Mechanism, engines


def speculation(policy="fixed", **said):
    return engines(speculate=policy, speculation={"acceptance": 0.7, "k": 3, **said})


def whole(batch):
    """Batches of whole prompts, the longest of which must fit a step."""
    return engines(batch=batch, max_num_batched_tokens=640)


NEUTRAL = speculation(kind="ngram", k=0)

MECHANISMS = [
    Mechanism("n-grams", speculation(kind="ngram"), NEUTRAL, slot="speculation"),
    Mechanism(
        "a draft model", speculation(kind="draft", draft="qwen3-0.6b"), NEUTRAL, slot="speculation"
    ),
    Mechanism(
        "a draft on other devices",
        speculation("goodput", kind="draft", draft="qwen3-0.6b", device="h200-sxm"),
        NEUTRAL,
        slot="speculation",
    ),
    Mechanism(
        "a tree of heads", speculation(kind="heads", k=None, tree=[2, 1]), NEUTRAL,
        slot="speculation",
    ),
    Mechanism("prompts first", whole("prefill_first"), slot="batch"),
    Mechanism("static batches", whole("static"), slot="batch"),
]  # fmt: skip
