"""A batch that comes at once and is alone, without a simulation: a few prefill steps, one integral.

    prefill   prompts in order, at most `budget` tokens a step; who has a first token decodes along
              (or waits, where prompts go first)
    decode    all B together: sum over the answer of step(B, c), exact where the table is a straight
              line between its knots

The simulator does the same step by step; this is what a table of static questions asks for.
"""

from __future__ import annotations

import numpy as np

from forerun.cost.step import decode_times, step_time
from forerun.cost.table import CostTable

MOST_STEPS = 64  # of prefill; a longer one is simulated


def batch_at_once(
    table: CostTable, *, isl: int, osl: int, batch: int, budget: int, prompts_first: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """(time to first token, end of the answer) of each request, float64 [B], in seconds; None where
    it is not worth the while.
    """
    if batch * isl > MOST_STEPS * budget or osl < 2:
        return None
    now, first, left = 0.0, np.zeros(batch), [isl] * batch
    done = 0  # requests with a first token
    ahead = np.zeros(batch)  # tokens that each has decoded during the prefill of others
    while done < batch:
        decoding = 0 if prompts_first else done
        room, ends = budget - decoding, done
        chunks: list[tuple[int, float]] = []
        for i in range(done, batch):
            take = min(left[i], room)
            if take <= 0 or (prompts_first and take < left[i] and chunks):
                break  # a policy that puts prompts first does not cut them
            chunks.append((take, float(isl - left[i])))
            left[i] -= take
            room -= take
            ends += left[i] == 0
        ctx = isl + float(ahead[:done].mean()) if decoding else None
        now += step_time(
            table, n_tokens=decoding + sum(q for q, _ in chunks), n_seqs=decoding + ends - done,
            n_decode=decoding, decode_ctx=ctx, chunks=chunks,
        ).value  # fmt: skip
        ahead[:decoding] += 1
        first[done:ends] = now
        done = ends
    if ahead.max(initial=0.0) >= osl - 1:
        return None
    # those that began first end first: with few tokens between them, as one batch to the mean
    start, steps = isl + float(ahead.mean()), osl - 1 - float(ahead.mean())
    end = now + _integral(table, batch, start, steps)
    step = float(decode_times(table, batch, np.array([isl + osl]))[0])
    return first, end + (ahead.mean() - ahead) * step


def _integral(table: CostTable, batch: int, start: float, steps: float) -> float:
    """Seconds of so many decode steps from a context on: trapezoids between the knots."""
    knots = table.knots_ctx[(table.knots_ctx > start) & (table.knots_ctx < start + steps)]
    at = np.array([start, *knots, start + steps])
    values = decode_times(table, batch, at)
    # a step at context c stands for the token from c to c + 1
    return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(at)))
