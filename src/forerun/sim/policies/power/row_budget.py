"""Oversubscription with priorities: low pools are slowed first, then high ones, then a brake.

Above `first` of the budget low pools go a level down at each look, at once to `first_level`; above
`second` high pools too; at the budget the brake (the last level) is pulled for all.  Below
`release` of the budget one group comes back a level at each look: high pools first.  In between
nothing changes, so that levels do not swing.  While levels are on their way (`settle` looks after a
change) only the brake may be pulled: the meter does not show them yet.

Source: the order of steps and the thresholds are POLCA's (Patel et al., ASPLOS 2024: 80 and 89 % of
the provisioned power, back 5 % below); levels stand for its clocks.
"""

from math import ceil

PARAMS = {"first": 0.8, "second": 0.89, "release": 0.75, "first_level": 2.0}


def row_budget(row, rule, memory):
    knobs = {**PARAMS, **rule.policy.params}
    share = row.power_w / row.budget_w
    levels, last = list(row.level), len(row.levels) - 1
    if share >= 1:
        memory["wait_s"] = row.time_s + rule.brake_s + rule.delay_s + rule.window_s
        return [last] * len(levels)
    if row.time_s < memory.get("wait_s", 0.0):
        return levels
    deepest = max(last - 1, 0)  # the last one is the brake
    low = [p for p, is_low in enumerate(row.low) if is_low]
    high = [p for p, is_low in enumerate(row.low) if not is_low]
    wanted = list(levels)
    if last in levels:  # the brake is let go to the level before it
        wanted = [min(k, deepest) for k in levels]
    elif share >= knobs["second"]:
        slower(wanted, low, deepest, knobs)
        if all(wanted[p] == levels[p] for p in low):
            slower(wanted, high, deepest, knobs)
    elif share >= knobs["first"]:
        slower(wanted, low, deepest, knobs)
    elif share < knobs["release"]:
        for group in (high, low):
            if any(levels[p] > 0 for p in group):
                for p in group:
                    wanted[p] = max(levels[p] - 1, 0)
                break
    if wanted != levels:
        looks = ceil((rule.act_s + rule.delay_s + rule.window_s) / rule.period_s)
        memory["wait_s"] = row.time_s + looks * rule.period_s
    return wanted


def slower(wanted, group, deepest, knobs):
    """Each pool of a group one level down, the first time at once to `first_level`."""
    for p in group:
        first = min(int(knobs["first_level"]), deepest)
        wanted[p] = first if wanted[p] == 0 else min(wanted[p] + 1, deepest)
