"""Whatever a tier keeps is moved, however long it takes (LMCache, vLLM's KV connectors)."""


def always(request, engine, offer, params):
    return offer.n_blocks
