"""The replica with the fewest requests routed to it and not done."""

from forerun.sim.core.signatures import OUTSTANDING


def least_outstanding(request, load, params, memory, rng):
    return load[OUTSTANDING].argmin()
