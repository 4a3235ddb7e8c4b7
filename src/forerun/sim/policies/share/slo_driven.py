"""Feedback on both targets, as semi-PD (arXiv 2504.19867) sets its shares.

Of the requests that ended since the last look, the 90th percentiles of the time to first token and
of the time per output token are held against `ttft_s` and `tpot_s`.  If one is missed, the phase
that misses by more gets the next larger share; if none is, nothing changes.  Prompts that have
waited longer than their target already count.  A target counts as missed above `margin` of it: 1,
the target itself, is the source's.
"""

from __future__ import annotations

import numpy as np

PARAMS = {"margin": 1.0}  # of a target that is to be kept


def slo_driven(lanes, rule, memory):
    margin = rule.policy.params.get("margin", PARAMS["margin"])
    waits, tokens = [*lanes.ttft_s, *lanes.waited_s], lanes.tpot_s
    slow_prompts = np.quantile(waits, 0.9) / (margin * rule.ttft_s) if len(waits) else 0.0
    slow_answers = np.quantile(tokens, 0.9) / (margin * rule.tpot_s) if len(tokens) else 0.0
    if max(slow_prompts, slow_answers) <= 1:
        return lanes.level
    return lanes.next_to(1 if slow_answers > slow_prompts else -1)
