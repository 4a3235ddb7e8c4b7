"""The same as `least_attained_service`, along the longest path of requests that led to this one.

Requests side by side do not add up: what counts is the critical path so far.  `level_s` is an
estimate, as there.
Source: adaptive thread-level attained service (ATLAS) of Autellix (Luo et al. 2025).
"""

PARAMS = {"level_s": 1.0}


def least_attained_path(request, now_ps, params):
    level = int(request.path_ps / (params[0] * 1e12))
    return min(level, 1000) * 9007199254740992 + request.arrival_ps // 1024
