"""Fine-tuning beside requests: what it got, and what it took from them."""

from __future__ import annotations

from typing import Any

from forerun.metrics.figure import Figure, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View


def figures(part: View) -> dict[str, Any]:
    """tuned_tokens, tuned_tokens_per_s, tuning_alone, tuning_beside; None where none is tuned."""
    tuned, tokens, rate, alone, beside = part.log.tuned, None, None, None, None
    if part.whole and tuned is not None:
        tokens = int(tuned["n_tokens"].sum())
        rate = ratio(float(tokens), part.duration_s)
        life_s = part.duration_s * len(tuned)
        alone = ratio(float(tuned["alone_ps"].sum()) * PS, life_s)
        beside = ratio(float(tuned["beside_ps"].sum()) * PS, life_s)
    return {
        "tuned_tokens": Figure(tokens, "count", "replicas"),
        "tuned_tokens_per_s": Figure(rate, "token/s", "replicas"),
        "tuning_alone": Figure(alone, "share", "replicas"),
        "tuning_beside": Figure(beside, "share", "replicas"),
    }


def told(part: View, tokens: Figure, alone: Figure, beside: Figure) -> list[str]:
    """A sentence for `explain`."""
    if part.log.tuned is None or tokens.value is None or alone.value is None:
        return []
    left = int(part.log.tuned["left"].sum())
    rest = f"{left:,} are left" if left else "the backlog is done"
    return [
        f"Fine-tuning took {int(tokens.value):,} tokens ({rest}): {text(alone.value, 'share')} of "
        f"the replicas' time went into steps of its own, which requests that come must wait for, "
        f"and it made other steps longer by {text(beside.value, 'share')} of the time."
    ]
