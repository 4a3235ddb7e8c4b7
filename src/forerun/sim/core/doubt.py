"""Whether an answer that was kept is given, or the request computed to learn if it were right.

    given (exploit) with probability 1 - tau, computed (explore) with

        tau = min over eps of  1 - delta / (1 - (1 - eps) L(eps)),   at least 0,

where delta is the error that may be, and L(eps) a lower bound, at confidence 1 - eps, of the
probability that an answer matched at this similarity is right (Schroeder et al., vCache,
arXiv:2502.03771: then a request gets a right answer with probability >= 1 - delta).

vCache fits a logistic curve for each answer; here the bound comes from counts for each category, as
in its variants with one threshold for all and with Wilson's interval.  Who is more alike is no less
often right, so the bound at a similarity is the best one of what was seen there and somewhat below:

    L(eps) = max over bins a <= b of  Wilson(right in a..b, tried in a..b, eps)

A cache knows whether a match was right only where the request was computed all the same.

Legend: c shelf, b bin of similarity, `tried` [shelves, bins, 2]: computed, and of them right.
"""

from __future__ import annotations

import math

from forerun.sim.core.jit import jit
from forerun.sim.core.rng import draw

N_BINS = 64  # of cosines from 0 to 1; all below 0 are in the first
ALL, RIGHT = 0, 1
FEWEST = 6  # with fewer tried nobody is given an answer (as in the code of vCache)
#: eps, and the quantile of the normal distribution at 1 - eps
QUANTILES = (
    (0.2, 0.8416212335729143),
    (0.1, 1.2815515655446004),
    (0.05, 1.6448536269514722),
    (0.02, 2.0537489106318225),
    (0.01, 2.3263478740408408),
    (0.005, 2.5758293035489004),
    (0.002, 2.878161739095483),
    (0.001, 3.090232306167813),
)


@jit
def bin_of(similarity):
    """Where a cosine is counted."""
    return min(max(int(similarity * N_BINS), 0), N_BINS - 1)


@jit
def sure(right, n, eps, z):
    """(1 - eps) L for `right` of n: L is the lower end of Wilson's score interval (1927)."""
    share, z2 = right / n, z * z
    middle = share + z2 / (2 * n)
    half = z * math.sqrt((share * (1.0 - share) + z2 / (4 * n)) / n)
    return (1.0 - eps) * (middle - half) / (1.0 + z2 / n)


@jit
def surest(tried, c, b):
    """max over eps of (1 - eps) L(eps) for a match in bin b; -inf where too few were tried."""
    best = -math.inf
    n = right = 0
    while b >= 0:
        if tried[c, b, ALL] > 0:
            n += tried[c, b, ALL]
            right += tried[c, b, RIGHT]
            if n >= FEWEST:
                for eps, z in QUANTILES:
                    best = max(best, sure(right, n, eps, z))
        b -= 1
    return best


@jit
def explores(state, request, c, similarity):
    """Whether a request that an answer of shelf c is like is computed all the same; noted so."""
    ask, b = state.asks[request], bin_of(similarity)
    tau = 1.0 - state.shelves[c].max_error / (1.0 - surest(state.tried, c, b))
    if draw(state.doubt_seed[0], request, ask.n_asked) >= tau:
        return False
    ask.n_explored += 1
    return True


@jit
def learn(state, request, c, question):
    """A request to `question` that was computed to learn has ended: was the match right?"""
    ask = state.asks[request]
    if ask.doubted < 0:
        return
    b = bin_of(ask.similarity)
    state.tried[c, b, ALL] += 1
    if ask.doubted == question:
        state.tried[c, b, RIGHT] += 1
    ask.doubted = -1
