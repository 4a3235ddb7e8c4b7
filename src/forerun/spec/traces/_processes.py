"""Arrival processes and length distributions, in pieces that join to what one draw would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from forerun.spec.workload import Lengths, Traffic

Source = Callable[[], np.ndarray]  # the next few arrival times, later than all before
_BATCH = 65_536  # times made at once; fixed, so that the caller's chunk changes nothing


def arrival_chunks(t: Traffic, rng: np.random.Generator, chunk: int) -> Iterator[np.ndarray]:
    """Arrival times in pieces of `chunk`, to n_requests or before duration_s."""
    left = t.n_requests if t.n_requests is not None else None
    end = t.duration_s if t.duration_s is not None else np.inf
    if t.arrivals == "at_once":
        assert left is not None
        for i in range(0, left, chunk):
            yield np.zeros(min(chunk, left - i))
        return
    source = _SOURCES[t.arrivals or "poisson"](t, rng)
    held: list[np.ndarray] = []
    n_held = 0
    more = True
    while more:
        while n_held < chunk and more:
            times = source()
            if times[-1] >= end:
                times, more = times[: np.searchsorted(times, end)], False
            if left is not None:
                times = times[:left]
                left -= len(times)
                more = more and left > 0
            held.append(times)
            n_held += len(times)
        joined = np.concatenate(held)
        while len(joined) >= chunk or (len(joined) and not more):
            yield joined[:chunk]
            joined = joined[chunk:]
        held, n_held = [joined], len(joined)


def _poisson(t: Traffic, rng: np.random.Generator) -> Source:
    return _renewal(lambda: rng.standard_exponential(_BATCH) / _rate(t))


def _gamma(t: Traffic, rng: np.random.Generator) -> Source:
    """Gamma gaps of mean 1/rate and coefficient of variation cv; cv 1 is Poisson."""
    shape = 1 / t.cv**2
    return _renewal(lambda: rng.standard_gamma(shape, _BATCH) / (shape * _rate(t)))


def _renewal(gaps: Source) -> Source:
    now = 0.0

    def more() -> np.ndarray:
        nonlocal now
        times = gaps()
        times[0] += now  # added before the sum, so that pieces round like the whole
        np.cumsum(times, out=times)
        now = float(times[-1])
        return times

    return more


def _uniform(t: Traffic, rng: np.random.Generator) -> Source:
    """Equally spaced, the first at 0."""
    i = 0

    def more() -> np.ndarray:
        nonlocal i
        i += _BATCH
        return np.arange(i - _BATCH, i) / _rate(t)

    return more


def _on_off(t: Traffic, rng: np.random.Generator) -> Source:
    """Poisson in bursts, silent between; both last exponential times of mean on_s and off_s.

    rate_per_s is the mean over both.  Begins as a service met at a random moment does: in a burst
    with probability on_s / (on_s + off_s).
    """
    share = t.on_s / (t.on_s + t.off_s)
    burst_rate = _rate(t) / share
    now = 0.0 if rng.random() < share else float(rng.exponential(t.off_s))
    # Poisson on the clock of bursts, then moved on by the silences passed: gaps of burst time are
    # drawn in batches, so are the lengths of bursts and silences
    busy = 0.0  # burst time at the last arrival
    edge, shift = (
        float(rng.exponential(t.on_s)),
        now,
    )  # burst time at this burst's end; silence so far

    def more() -> np.ndarray:
        nonlocal busy, edge, shift
        marks = busy + np.cumsum(rng.standard_exponential(_BATCH) / burst_rate)
        busy = float(marks[-1])
        edges, shifts = [edge], [shift]
        while edges[-1] <= busy:
            n = int((busy - edges[-1]) / t.on_s) + 8
            ends = edges[-1] + np.cumsum(rng.exponential(t.on_s, n))
            silent = shifts[-1] + np.cumsum(rng.exponential(t.off_s, n))
            edges += ends.tolist()
            shifts += silent.tolist()
        k = np.searchsorted(edges, marks, side="right")
        keep = int(k[-1])  # the burst of the last arrival; later ones are drawn anew, unseen
        edge, shift = edges[keep], shifts[keep]
        return marks + np.array(shifts)[k]

    return more


def _diurnal(t: Traffic, rng: np.random.Generator) -> Source:
    """Poisson of rate * (1 + swing * sin(2 pi (time + ahead_s) / period_s)), by thinning a faster
    one."""
    top = _rate(t) * (1 + t.swing)
    faster = _renewal(lambda: rng.standard_exponential(_BATCH) / top)

    def more() -> np.ndarray:
        while True:
            times = faster()
            level = 1 + t.swing * np.sin(2 * np.pi * (times + t.ahead_s) / t.period_s)
            kept = times[rng.random(len(times)) * (1 + t.swing) < level]
            if len(kept):
                return kept

    return more


def _rate(t: Traffic) -> float:
    assert t.rate_per_s is not None
    return t.rate_per_s


_SOURCES: dict[str, Callable[[Traffic, np.random.Generator], Source]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "uniform": _uniform,
    "on_off": _on_off,
    "diurnal": _diurnal,
}


def length_chunks(
    isl: Lengths, osl: Lengths, rng: np.random.Generator
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """A function that gives the next n (isl, osl); each has its own part of the stream."""
    first, second = rng.spawn(2)
    return lambda n: (draw_tokens(isl, first, n), draw_tokens(osl, second, n))


def draw_tokens(x: Lengths, rng: np.random.Generator, n: int) -> np.ndarray:
    """n token counts, int64, rounded and kept within [low, high] (which may move the mean).

    uniform reaches equally far to both sides of the mean when only one end is given.
    """
    if x.kind == "fixed" or (x.kind == "lognormal" and x.cv == 0):
        return np.full(n, round(x.mean), dtype=np.int64)
    if x.kind == "uniform":
        low, high = uniform_ends(x)
        return rng.integers(low, high + 1, n)
    if x.kind == "geometric":
        tokens = rng.geometric(1 / x.mean, n)
        return np.clip(tokens, x.low, x.high)
    # mean m and cv c:  sigma^2 = ln(1 + c^2),  mu = ln m - sigma^2 / 2
    variance = np.log1p(x.cv**2)
    values = rng.standard_normal(n)
    values *= np.sqrt(variance)
    values += np.log(x.mean) - variance / 2
    np.exp(values, out=values)
    return np.clip(np.rint(values), x.low, x.high).astype(np.int64)


def uniform_ends(x: Lengths) -> tuple[int, int]:
    """Lowest and highest count; an end left at its default mirrors the other about the mean."""
    free = type(x).model_fields["high"].default
    if x.high == free:
        return x.low, round(2 * x.mean - x.low)
    if x.low == 1:
        return round(2 * x.mean - x.high), x.high
    return x.low, x.high
