"""Replicas stay while they work and for keep_alive_s after; more come when none has room.

A replica has room for `target` requests.  What serverless platforms do: with min_replicas 0 the
pool is empty between bursts.
"""

from math import ceil


def keep_alive(pool, rule, memory):
    needed = ceil(pool.total("outstanding") / rule.target - 1e-9)
    kept = int((pool.idle_s < rule.keep_alive_s).sum())  # 0 for those that work
    return max(needed, kept)
