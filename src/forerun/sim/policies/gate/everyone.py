"""Everybody is let in; nothing is asked."""


def everyone(request, load, now_ps, params, memory):
    return 1
