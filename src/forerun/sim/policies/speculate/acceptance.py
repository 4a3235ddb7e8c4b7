"""As many tokens as are more likely right than `least`, by what was right for this request of late.

A row of k tokens is right with chance alpha**k, alpha being the share found right of those looked
at; one that was always wrong is still tried with one token.  Before the first round it is `prior`.
The three are estimates: a lower `least` proposes longer rows, of which more is thrown away; `prior`
and `weight` (tokens looked at that it is worth) say how soon a request's own record counts.
Hugging Face stops a row by the draft's confidence instead (dynamic speculation, threshold 0.4).
"""

PARAMS = {"least": 0.3, "prior": 0.7, "weight": 5.0}


def acceptance(request, replica, engine, step_ps, params):
    least, prior, weight = params[0], params[1], params[2]
    alpha = (request.recent_right + prior * weight) / (request.recent_tried + weight)
    k = 1
    chance = alpha * alpha
    while k < engine.draft_most and chance >= least:
        k += 1
        chance *= alpha
    return k
