"""Conversations of a trace that go on after the simulated answer, not at the recorded time.

    think = arrival of the next request - end of the answer before it, both as recorded, at least 0

Where the end is not recorded: arrival + token_s * output tokens.
"""

from __future__ import annotations

import numpy as np

from forerun.errors import SpecError
from forerun.spec.requests import Requests
from forerun.spec.traces._columns import take


def after_answer(requests: Requests, *, token_s: float, trace: str) -> Requests:
    """The requests, each but the first of its session waiting for the answer to the one before.

    Raises SpecError where no session has a second request.
    """
    before, after = _pairs(requests)
    if not len(before):
        what = f"no request of {trace} is the next one of a session, so turns wait for nothing"
        raise SpecError.one("traffic.turns", what, "a trace with sessions, or turns: recorded")
    took = token_s * requests.osl
    n_recorded = 0
    if requests.took_s is not None:
        known = np.isfinite(requests.took_s) & (requests.took_s >= 0)
        took = np.where(known, requests.took_s, took)
        n_recorded = int(known[before].sum())
    gap = requests.arrival_s[after] - requests.arrival_s[before] - took[before]
    order = np.argsort(before, kind="stable")
    count = np.bincount(before, minlength=len(requests))
    told = {
        "n": len(after),
        "n_recorded": n_recorded,
        "n_early": int((gap < 0).sum()),
        "mean_think_s": float(np.maximum(gap, 0.0).mean()),
        "token_s": token_s,
    }
    return take(
        requests,
        np.arange(len(requests)),
        successors=after[order],
        successor_starts=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        delay_s=np.maximum(gap, 0.0)[order],
        meta={**requests.meta, "turns": told},
    )


def _pairs(requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """(request, the next one of its session) for all that have a next one."""
    session = requests.session
    if session is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    order = np.lexsort((np.arange(len(session)), session))
    same = (np.diff(session[order]) == 0) & (session[order][1:] >= 0)
    return order[:-1][same], order[1:][same]


def explain(requests: Requests) -> list[str]:
    """What a run's turns waited for, in sentences."""
    told = requests.meta.get("turns")
    if told is None:
        return []
    out = (
        f"{told['n']:,} of {len(requests):,} requests were sent after the answer before them and "
        f"the recorded time to think, {told['mean_think_s']:.3g} s on average"
    )
    if told["n_early"]:
        out += f"; {told['n_early']:,} came in the trace before that answer's end: at once"
    return [out + "."]


def assumed(requests: Requests) -> list[str]:
    """What the ends of recorded answers were taken to be."""
    told = requests.meta.get("turns")
    if told is None or told["n_recorded"] == told["n"]:
        return []
    return [
        f"recorded answers whose end the trace does not tell ({told['n'] - told['n_recorded']:,}) "
        f"came at {told['token_s']:g} s a token: the time to think after them is an estimate",
        "who had no answer does not go on: the rest of the conversation is not sent",
    ]
