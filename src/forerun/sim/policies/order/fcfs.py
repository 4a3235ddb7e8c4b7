"""First come, first served: by arrival at the router.  A preempted request keeps its place."""


def fcfs(request, now_ps, params):
    return request.arrival_ps
