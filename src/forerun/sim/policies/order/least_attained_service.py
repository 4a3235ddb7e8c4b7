"""The workflow that has had the least service so far is next; within a level, as requests came.

Service is the time from start to end of those of its requests that have ended; a level is `level_s`
of it.  Short workflows finish soon without anybody's knowing which are short, long ones wait.  A
request keeps the place that it came with.  `level_s` is an estimate: a finer one orders more and
lets long workflows wait behind all that is a little shorter.
Source: program-level attained service (PLAS) of Autellix (Luo et al. 2025).
"""

PARAMS = {"level_s": 1.0}


def least_attained_service(request, now_ps, params):
    level = int(request.attained_ps / (params[0] * 1e12))
    return min(level, 1000) * 9007199254740992 + request.arrival_ps // 1024
