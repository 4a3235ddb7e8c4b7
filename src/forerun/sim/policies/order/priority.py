"""Smaller `priority` first; within a priority, as they came.

Assumes priorities within +-1000 and runs shorter than 106 days / 1000.
"""


def priority(request, now_ps, params):
    # 2**53 ps is 2.5 hours: coarser arrival times would still order, finer ones would overflow
    return request.priority * 9007199254740992 + request.arrival_ps // 1024
