"""The smallest share with which answers keep their time per token; prompts have the rest.

By the cost model, for as many requests as are being answered and their mean length, while a prompt
is computed beside them; as Nexus (arXiv 2507.06608) chooses from its model.  A level other than the
present one is taken when the model says that the present one misses the target, or that a smaller
one keeps it with `margin` to spare, 0.9 being an estimate.
"""

from __future__ import annotations

PARAMS = {"margin": 0.9}  # of the target, for a smaller share


def least_for_tpot(lanes, rule, memory):
    margin = rule.policy.params.get("margin", PARAMS["margin"])
    if lanes.n_answering == 0:
        return lanes.level
    for level in lanes.by_answers:
        bound = rule.tpot_s if level == lanes.level else margin * rule.tpot_s
        if lanes.step_s(level) <= bound:
            return level
    return lanes.by_answers[-1]
