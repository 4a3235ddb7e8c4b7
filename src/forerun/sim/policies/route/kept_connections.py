"""A service that knows nothing of its replicas, behind a client that keeps its connections open.

A request takes one of the idle connections, whose replica has answered all it got over it; without
one a new connection is opened, to a replica drawn at random.  So busy replicas are spared a little,
although nobody looks at them.  This is what a Kubernetes service does to requests of one client
with a pool of kept connections (kube-proxy chooses at random when a connection is opened:
https://kubernetes.io/docs/reference/networking/virtual-ips/).
"""

from forerun.sim.core.rng import integer
from forerun.sim.core.signatures import MEMORY, OUTSTANDING, REPLICA


def kept_connections(request, load, params, memory, rng):
    n = load.shape[1]
    idle = 0
    for c in range(n):
        idle += max(0, memory[MEMORY + load[REPLICA, c]] - load[OUTSTANDING, c])
    if idle > 0:
        left = integer(rng, idle)
        for c in range(n):
            left -= max(0, memory[MEMORY + load[REPLICA, c]] - load[OUTSTANDING, c])
            if left < 0:
                return c
    c = integer(rng, n)
    memory[MEMORY + load[REPLICA, c]] += 1
    return c
