"""Every mtbf_s, for mttr_s, without chance."""


def fixed(rng, fault):
    while True:
        yield fault.mtbf_s, fault.mttr_s
