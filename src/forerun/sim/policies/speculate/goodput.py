"""As many tokens as give the most expected tokens a second, by what the step would take.

    argmax over k of  (1 + alpha + .. + alpha**k) / step(k)

alpha is the share found right of those looked at for this request of late (`prior` with `weight`
before there are any), step(k) the cost of a step in which all decoders propose k.  No proposal
where none gains: alpha is then kept, and asked of again as the batch changes.
Source: Liu et al., Optimizing Speculative Decoding for Serving Large Language Models Using Goodput,
2024 (SmartSpec), which takes one k for all and a fitted linear step time; here each request has its
own and the time is priced.
"""

PRICED = True
EVERY_STEP = True
PARAMS = {"prior": 0.7, "weight": 5.0}


def goodput(request, replica, engine, step_ps, params):
    prior, weight = params[0], params[1]
    alpha = (request.recent_right + prior * weight) / (request.recent_tried + weight)
    best = 0
    most = 1.0 / step_ps[0]
    tokens = 1.0
    chance = 1.0
    for k in range(1, engine.draft_most + 1):
        chance *= alpha
        tokens += chance
        if tokens / step_ps[k] > most:
            most = tokens / step_ps[k]
            best = k
    return best
