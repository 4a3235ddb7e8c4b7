"""At the times of at_s, for mttr_s each (or until the next of them)."""


def listed(rng, fault):
    ended = 0.0
    for at in sorted(fault.at_s):
        begins = max(at, ended)
        yield begins - ended, fault.mttr_s
        ended = begins + fault.mttr_s
