"""Earliest deadline first; requests without a deadline come last, as they came."""


def earliest_deadline(request, now_ps, params):
    return request.deadline_ps
