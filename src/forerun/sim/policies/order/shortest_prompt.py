"""Fewest tokens to compute first (shortest job first, as far as a server can know).

Long prompts can starve under load; source: the shortest-prompt-first queue of Nexus.
"""


def shortest_prompt(request, now_ps, params):
    return request.n_known
