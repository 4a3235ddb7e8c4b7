"""All that the engine may while at most `most_seqs` requests decode, nothing beyond."""

PARAMS = {"most_seqs": 8.0}


def small_batch(request, replica, engine, step_ps, params):
    if replica.n_decode > params[0]:
        return 0
    return engine.draft_most
