"""What experts did in a run, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forerun import units
from forerun.sim.setup import Served


def explain(pools: Sequence[Served], until_s: float) -> list[str]:
    """What experts did in a run, in sentences."""
    out = []
    for served in pools:
        if served.course is None or (served.block is not None and served.lane > 0):
            continue
        seen = served.course.seen(until_s)
        load = np.array([w.spread.load for w in seen])
        if load.max() > 1:
            out.append(
                f"Experts of {served.pool.name}: the busiest device has {load.mean():.2f} times "
                f"the mean load on average, {load.max():.2f} times at most, over {len(seen):,} "
                f"windows; steps were priced at {len(served.levels)} levels."
                if len(seen) > 1
                else f"Experts of {served.pool.name}: the busiest device has {load[0]:.2f} times "
                "the mean load all the time."
            )
        n = sum(w.rebalanced for w in seen)
        if n:
            wait = float(np.mean([w.move_s for w in seen if w.rebalanced]))
            out.append(
                f"They were placed anew {n} times; moving them took {units.show(wait, 'time')} on "
                "average, until when the old placement held."
            )
        if served.waits is not None:
            tokens = [b for b in served.waits.hit if b <= served.table.max_tokens]
            b = min(64, max(tokens))
            step = float(served.waits.step_s[b])
            share = step / served.table.time_s.tokens[b]
            out.append(
                f"Of the experts that a step of {b} tokens wants, "
                f"{100 * served.waits.hit[b]:.3g} % are in device memory; it waits "
                f"{units.show(step, 'time')} for the others, {100 * share:.3g} % of its time "
                "without attention."
            )
    return out
