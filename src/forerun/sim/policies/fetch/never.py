"""Everything is computed again: tiers are written to and never read (a baseline)."""


def never(request, engine, offer, params):
    return 0
