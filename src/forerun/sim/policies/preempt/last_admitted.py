"""The request that started last gives up its blocks first (vLLM)."""


def last_admitted(request, params):
    return request.admitted
