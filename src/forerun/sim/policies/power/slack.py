"""The lowest clock that still keeps the time per output token, as the load of now tells.

With n requests in a step, c cached tokens each, and a share f of the time in steps with prompts, a
request waits for a token step(n, c) / (1 - f).  At another level prompts take their ratio of f, and
requests stay longer, so that by Little's law there are more of them:

    f' = f * prompt' / prompt,    n' = n * tpot' / tpot,    tpot' = step'(n', c) / (1 - f')

A pool goes one level down when that is `margin` of `tpot_s` or less, one step of `prompt` tokens is
`margin` of `ttft_s` (where given), and f' at most `busy`; not within `settle` looks of another
change.  It goes up to the level that keeps them at once, to full clock while more than `queue`
requests a replica wait.  Readings are averaged over about 1 / `smooth` looks.  The knobs are
estimates: more `margin`, `busy` or `queue` saves more energy and misses the goals oftener.  With a
budget no level is chosen at which the row could pass it.

Source: the idea of throttLL'eM (Kakolyris et al., 2024) and DynamoLLM (Stojkovic et al., HPCA
2025), which predict a step at each frequency from the batch; here the cost model predicts.
"""

PARAMS = {"margin": 0.8, "busy": 0.6, "prompt": 2048.0, "queue": 1.0, "settle": 4.0, "smooth": 0.2}


def slack(row, rule, memory):
    knobs = {**PARAMS, **rule.policy.params}
    out = []
    for p, level in enumerate(row.level):
        seen = smoothed(row, p, memory, knobs)
        kept = [k for k in range(1, len(row.levels)) if keeps(row, rule, p, k, seen, knobs)]
        lowest = max(kept, default=0)
        if row.waiting[p] > knobs["queue"] * max(row.n_up(p), 1):
            lowest = 0
        since = memory.setdefault("since", {}).setdefault(p, 0)
        if lowest < level:
            out.append(lowest)
        else:
            out.append(level + int(lowest > level and since >= knobs["settle"]))
        memory["since"][p] = since + 1 if out[p] == level else 0
    while row.most_w(out) > row.budget_w and any(k < len(row.levels) - 1 for k in out):
        out = [min(k + 1, len(row.levels) - 1) for k in out]
    return out


def smoothed(row, p, memory, knobs):
    """(requests in a step, cached tokens of each, share of time with prompts), averaged."""
    now = (*row.running_each(p), float(row.prompts[p]))
    before = memory.setdefault("seen", {}).get(p, now)
    s = knobs["smooth"]
    memory["seen"][p] = tuple((1 - s) * b + s * n for b, n in zip(before, now, strict=True))
    return memory["seen"][p]


def keeps(row, rule, p, k, seen, knobs):
    """Whether level k keeps both times, with `margin`."""
    n, ctx, f = seen
    level, tokens = row.level[p], int(knobs["prompt"])
    share = f * row.prompt_s(p, k, tokens) / row.prompt_s(p, level, tokens)
    if share > knobs["busy"]:
        return False
    now = row.step_s(p, level, n, ctx) / (1 - min(f, 0.9))
    then, requests = now, n
    for _ in range(8):
        then = row.step_s(p, k, requests, ctx) / (1 - min(share, 0.9))
        requests = n * then / now
    if then > knobs["margin"] * rule.tpot_s:
        return False
    return rule.ttft_s is None or row.prompt_s(p, k, tokens) <= knobs["margin"] * rule.ttft_s
