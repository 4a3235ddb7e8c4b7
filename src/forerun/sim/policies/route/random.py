"""Any replica, all equally likely."""

from forerun.sim.core.rng import integer


def random(request, load, params, memory, rng):
    return integer(rng, load.shape[1])
