"""The lowest clock that still keeps the time per output token, as far as the load of now tells.

Each pool runs at the lowest level at which a step of its fullest replica, with room for `room`
times its requests, takes `margin` of `tpot_s` or less; prompts of `prompt` tokens, where `ttft_s`
is given, must take `margin` of it.  While requests wait the clock is full.  Below the budget only,
where there is one.

Source: the idea of throttLL'eM (Kakolyris et al., 2024) and DynamoLLM (Stojkovic et al., HPCA
2025), which predict a step at each frequency from the batch; here the cost model is what predicts.
"""

PARAMS = {"margin": 0.8, "room": 1.25, "prompt": 2048.0, "queue": 0.0}


def slack(row, rule, memory):
    knobs = {**PARAMS, **rule.policy.params}
    out = []
    for p in range(len(row.pools)):
        k = 0
        if row.waiting[p] <= knobs["queue"]:
            n, ctx = row.busiest(p)
            k = lowest(row, rule, p, max(1, round(knobs["room"] * n)), ctx, knobs)
        out.append(k)
    while row.most_w(out) > row.budget_w and any(k < len(row.levels) - 1 for k in out):
        out = [min(k + 1, len(row.levels) - 1) for k in out]
    return out


def lowest(row, rule, p, n, ctx, knobs):
    """The number of the lowest level that keeps both times; 0 where none does."""
    for k in range(len(row.levels) - 1, 0, -1):
        in_time = row.step_s(p, k, n, ctx) <= knobs["margin"] * rule.tpot_s
        if in_time and rule.ttft_s is not None:
            in_time = row.prompt_s(p, k, int(knobs["prompt"])) <= knobs["margin"] * rule.ttft_s
        if in_time:
            return k
    return 0
