"""A router of one's own: the replica with the fewest tokens still to be computed.

By name, in a case file or on the command line:

    forerun simulate examples/mixed-fleet.yaml \
        --policy route=examples/shortest_queue.py:shortest_queue

By value, in Python (this file, run, compares it with the router that ships):

    forerun.simulate(case, policies={"route": shortest_queue})
"""

from forerun.sim.core.signatures import OUTSTANDING, OUTSTANDING_TOKENS, SPEED

#: knobs and their defaults; `params` holds them in this order
PARAMS = {"tokens_a_request": 64.0}


def shortest_queue(request, load, params, memory, rng):
    """Prompt tokens to compute, and so many for each request in flight, over the pool's speed."""
    best, least = 0, 1e300
    for i in range(load.shape[1]):
        work = load[OUTSTANDING_TOKENS, i] + params[0] * load[OUTSTANDING, i]
        wait = (work + 1.0) / load[SPEED, i]
        if wait < least:
            best, least = i, wait
    return best


# a function handed over by value brings its knobs along
shortest_queue.PARAMS = PARAMS  # type: ignore[attr-defined]


if __name__ == "__main__":
    import forerun

    case = forerun.load("examples/mixed-fleet.yaml")
    runs = {"least_outstanding": {}, "shortest_queue": {"route": shortest_queue}}
    for name, policies in runs.items():
        metrics = forerun.simulate(case, policies=policies).metrics
        print(f"{name:18} p99 ttft {1e3 * metrics.ttft_s.p99:.0f} ms")
