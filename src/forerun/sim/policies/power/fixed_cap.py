"""One level for all, the highest at which the most that the row can draw is within the budget.

What a row without oversubscription does: the budget holds whatever comes, and most of it is never
used.  Follows the budget where that changes with the time of day.
"""


def fixed_cap(row, rule, memory):
    n = len(row.pools)
    for k in range(len(row.levels)):
        if row.most_w([k] * n) <= row.budget_w:
            return [k] * n
    return [len(row.levels) - 1] * n
