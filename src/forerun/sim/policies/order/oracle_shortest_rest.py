"""The workflow with the fewest tokens left on its critical path is next, by their true number.

The least mean time for workflows, as far as one queue is: what `least_attained_service` is after
without knowing.
"""


def oracle_shortest_rest(request, now_ps, params):
    return request.left_tokens
