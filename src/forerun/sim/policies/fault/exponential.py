"""Memoryless: how long a part has run says nothing about when it fails.

Times up and times down are exponential with means mtbf_s and mttr_s, so that the share of time up
is mtbf / (mtbf + mttr).
"""


def exponential(rng, fault):
    while True:
        yield rng.exponential(fault.mtbf_s), rng.exponential(fault.mttr_s)
