"""Times up follow a Weibull law of mean mtbf_s.

With shape < 1 what was just repaired fails more often (infant mortality, as large clusters see),
with shape > 1 what is old does; 1 is exponential.

    scale = mtbf / Gamma(1 + 1/shape);   times down are exponential with mean mttr_s
"""

from math import gamma


def weibull(rng, fault):
    scale = fault.mtbf_s / gamma(1 + 1 / fault.shape)
    while True:
        yield scale * rng.weibull(fault.shape), rng.exponential(fault.mttr_s)
