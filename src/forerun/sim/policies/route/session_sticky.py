"""All requests of a session go to one replica, chosen by hash; others to the least loaded."""

from forerun.sim.core.signatures import OUTSTANDING


def session_sticky(request, load, params, memory, rng):
    if request.session < 0:
        return load[OUTSTANDING].argmin()
    # Knuth's multiplicative hash spreads consecutive session numbers
    return (request.session * 2654435761 % 4294967296) % load.shape[1]
