"""Which of several events at the same picosecond happens first.

Events are ordered by time, then kind, then index: an arrival by its place in the workload, a step
boundary by its replica.  The index takes the part of a running sequence number because it is the
same whether a run of steps is leapt over or taken one by one.
"""

from __future__ import annotations

ARRIVAL = 0  # a request reaches the router; it can join a step that begins at the same moment
TRANSFER = 1  # KV has come; its request can join a step that begins at the same moment
BOUNDARY = 2  # a replica ends its steps: tokens come out, requests finish, the next batch is formed
TIMER = 3  # a client's patience is over: what has come by then counts
COMMAND = 4  # a replica opens, closes, fails, changes its costs or gives a request away

NEVER = (1 << 63) - 1  # a time that does not come
