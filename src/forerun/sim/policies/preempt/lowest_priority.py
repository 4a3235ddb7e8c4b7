"""The least important request gives up its blocks first; among equals, the one that came last."""


def lowest_priority(request, params):
    return request.priority * 9007199254740992 + request.arrival_ps // 1024
