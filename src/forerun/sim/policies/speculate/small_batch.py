"""All that the engine may while at most `most_seqs` requests decode, nothing beyond.

Source: vLLM's `speculative_disable_by_batch_size` (pull request 4592, 2024), which has no default;
8 is an estimate.  More speculates on until steps are bound by arithmetic, where it costs time.
"""

PARAMS = {"most_seqs": 8.0}


def small_batch(request, replica, engine, step_ps, params):
    if replica.n_decode > params[0]:
        return 0
    return engine.draft_most
