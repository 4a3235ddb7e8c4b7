"""The tenant that has been served least is next: virtual token counters.

A prompt token counts `input`, one of an answer `output`, over the tenant's weight.  A tenant that
was idle starts from the others' counters (`lift`).  Counters are a replica's own, or the fleet's
(`shared`).  No tenant that always has requests waiting gets more than another by more than twice
the larger of `input` x longest prompt and `output` x tokens that fit into memory.
Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.
"""

AGAIN = True
PARAMS = {"input": 1.0, "output": 2.0, "shared": 0.0, "lift": 1.0}


def vtc(request, now_ps, params):
    return request.served
