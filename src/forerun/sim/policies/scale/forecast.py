"""As many replicas as the arrivals of the time ahead need, at `target` requests a second each.

The rate `ahead_s` from now (a cold start, so that replicas are there when it comes) is that of one
season earlier, where `repeat_s` is given and has passed, corrected by how today compares with then;
else the line through the rates of the last `window` looks by least squares.
8 is an estimate: fewer looks follow a turn sooner, more are shaken less by chance.  NVIDIA Dynamo's
planner scales by predicted load too (constant, ARIMA or Prophet, over a window of its own).
"""

from math import ceil

import numpy as np

PARAMS = {"window": 8.0}


def forecast(pool, rule, memory):
    seen = memory.setdefault("seen", [])
    if pool.elapsed_s > 0:
        seen.append((pool.time_s, pool.total("requests_per_s")))
    ahead = pool.cold_s if rule.ahead_s is None else rule.ahead_s
    rate = seasonal(seen, pool.time_s, ahead, rule.repeat_s) if rule.repeat_s else None
    if rate is None:
        window = int(rule.policy.params.get("window", PARAMS["window"]))
        rate = trend(seen[-window:], pool.time_s + ahead)
    return pool.wanted if rate is None else ceil(max(rate, 0.0) / rule.target - 1e-9)


def trend(seen, at_s):
    """The least-squares line through (time, rate) read at a time; None without a rate."""
    if not seen:
        return None
    time, rate = np.array(seen).T
    if len(time) < 3:
        return float(rate[-1])
    t = time - time.mean()
    slope = float((t * rate).sum() / (t * t).sum())
    return float(rate.mean()) + slope * (at_s - float(time.mean()))


def seasonal(seen, now_s, ahead_s, season_s):
    """The rate of one season before the time ahead, times today's level over the level then."""
    if now_s < season_s or len(seen) < 4:
        return None
    time, rate = np.array(seen).T
    then = float(np.interp(now_s + ahead_s - season_s, time, rate))
    recent = time > now_s - season_s / 8
    before = np.interp(time[recent] - season_s, time, rate).mean()
    level = rate[recent].mean() / before if before > 0 else 1.0
    return then * float(np.clip(level, 0.25, 4.0))
