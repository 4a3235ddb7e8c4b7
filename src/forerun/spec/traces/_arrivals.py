"""Arrivals in a few numbers: a rate by time of day, levels that jump, and a gap distribution.

The rate at time t is

    rate * profile[bin of t] * product over levels k of G_k(t)

where G_k is constant for `level_s[k]` seconds and then drawn anew from a gamma distribution of mean
1 and variance `level_var[k]`; within each bin the product is scaled to mean 1, so that bins keep
their share.  Arrivals are a gamma renewal process of coefficient of variation `gap_cv` on the clock
that this rate drives.  With `tick_s`, times are then cut to multiples of it, as the trace's were.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from forerun.spec.base import Spec
from forerun.spec.requests import Requests

LEVEL_S = (1.0, 5.0, 10.0)
_WINDOWS_S = (1.0, 5.0, 10.0)  # one for each level
_BIN_S = 20.0  # narrowest; a multiple of every level
_MAX_BINS = 180
_GROUP = 3  # bins whose mean is known better than each
_CELLS = 1_000_000  # seconds of rate held at once
_FIT_REQUESTS = 100_000  # burstiness is fitted on no more than about this many
_TINY = 1e-4  # a variance below this is none


class Arrivals(Spec):
    """When requests come.  See the module's docstring for the process."""

    rate_per_s: float = Field(gt=0)
    bin_s: float = Field(ge=1)
    profile: tuple[float, ...]  # share of the mean rate by bin, mean 1; repeats
    gap_cv: float = Field(gt=0)
    level_s: tuple[float, ...] = LEVEL_S
    level_var: tuple[float, ...] = ()
    tick_s: float | None = Field(default=None, gt=0)


def draw_arrivals(
    a: Arrivals,
    rng: np.random.Generator,
    *,
    n: int | None = None,
    duration_s: float | None = None,
    rate_scale: float = 1.0,
) -> np.ndarray:
    """Arrival times, float64, up to n of them and before duration_s (at least one is given)."""
    cells = max(1, round(a.bin_s))
    per_round = max(1, _CELLS // cells)
    if duration_s is not None:
        per_round = min(per_round, int(duration_s // cells) + 1)
    if n is not None:
        expected = n / (a.rate_per_s * rate_scale) / cells
        per_round = min(per_round, int(1.2 * expected) + 2)
    profile = np.array(a.profile) * a.rate_per_s * rate_scale
    parts: list[np.ndarray] = []
    first_bin, offset, count = 0, 0.0, 0
    while True:
        bins = profile[(first_bin + np.arange(per_round)) % len(profile)]
        rate = (bins[:, None] * _levels(a, rng, per_round, cells)).ravel()
        clock = np.concatenate([[0.0], np.cumsum(rate)])  # expected arrivals by each second's end
        marks, offset = _renewal(rng, a.gap_cv, offset, float(clock[-1]))
        times = first_bin * cells + np.interp(marks, clock, np.arange(len(clock)))
        parts.append(times)
        count += len(times)
        first_bin += per_round
        if duration_s is not None and first_bin * cells >= duration_s:
            break
        if n is not None and count >= n:
            break
    times = np.concatenate(parts)
    if a.tick_s:
        times = np.floor(times / a.tick_s) * a.tick_s
    if duration_s is not None:
        times = times[: np.searchsorted(times, duration_s)]
    return times[:n]


def _levels(a: Arrivals, rng: np.random.Generator, n_bins: int, cells: int) -> np.ndarray:
    """The product of all levels by second, mean 1 in each bin: float64 [n_bins, cells]."""
    product = np.ones((n_bins, cells))
    for seconds, variance in zip(a.level_s, a.level_var, strict=False):
        if variance < _TINY:
            continue
        width = max(1, round(seconds))
        levels = rng.standard_gamma(1 / variance, (n_bins, -(-cells // width))) * variance
        product *= np.repeat(levels, width, axis=1)[:, :cells]
    mean = product.mean(axis=1, keepdims=True)
    return np.divide(product, mean, out=np.ones_like(product), where=mean > 1e-300)


def _renewal(
    rng: np.random.Generator, cv: float, offset: float, end: float
) -> tuple[np.ndarray, float]:
    """Renewal points below `end` (mean gap 1), and how far beyond it the next one lies.

    offset: where the first point lies, as the last call returned it; 0 begins with a gap.
    """
    shape = 1 / cv**2
    parts = [np.array([offset])] if offset > 0 else []
    last = offset
    while last < end:
        n = int(1.1 * (end - last) + 10 * cv + 10)
        points = last + np.cumsum(rng.standard_gamma(shape, n) / shape)
        parts.append(points)
        last = float(points[-1])
    points = np.concatenate(parts) if parts else np.zeros(0)
    k = int(np.searchsorted(points, end))
    return points[:k], float(points[k] - end) if k < len(points) else 0.0


def fit_arrivals(requests: Requests) -> Arrivals:
    """The process whose counts by bin are the trace's and whose dispersion within bins is too."""
    t = requests.arrival_s - requests.arrival_s[0]
    duration = float(t[-1])
    if duration < 2 * _BIN_S:  # too short for a profile: one bin
        return Arrivals(
            rate_per_s=max(len(t) - 1, 1) / duration, bin_s=_BIN_S, profile=(1.0,), gap_cv=1.0
        )
    tick_s = _tick_s(t)
    least = _BIN_S  # or a whole number of ticks, so that each bin holds equally many
    if tick_s and tick_s == round(tick_s):
        least = float(np.ceil(_BIN_S / tick_s) * tick_s)
    bin_s = max(1.0, float(np.ceil(duration / _MAX_BINS / least))) * least
    n_bins = int(duration // bin_s)
    count = np.bincount((t / bin_s).astype(np.int64), minlength=n_bins)[:n_bins]
    base = Arrivals(
        rate_per_s=float(f"{count.sum() / (n_bins * bin_s):.6g}"),
        bin_s=bin_s,
        profile=_profile(count, 1.0),
        gap_cv=1.0,
        tick_s=tick_s,
    )
    fitted = _fit_bursts(base, t, count)
    return fitted.model_copy(update={"profile": _profile(count, fitted.gap_cv**2)})


def _profile(count: np.ndarray, noise: float) -> tuple[float, ...]:
    """Counts by bin over their mean, without the part of their spread that is chance.

    Renewal counts of mean m spread by noise * m (noise: gap_cv**2) even when the rate is flat, and
    the draw adds that again.  Deviations shrink by sqrt(1 - noise/dispersion): those of groups of
    bins and those of bins within their group each by its own factor, since chance is the same at
    every scale and real change is slow.  Idle bins stay idle where that is more than chance.
    """
    mean = count.mean()
    group = np.arange(len(count)) // _GROUP
    size = np.bincount(group)
    slow = (np.bincount(group, count) / size)[group]
    fast = count - slow
    n_free = len(count) - len(size)  # degrees of freedom of bins within groups
    fast_dispersion = (fast**2).sum() / max(n_free, 1) / mean
    slow_dispersion = (np.bincount(group, count) - size * mean).var() / (size * mean).mean()
    share = 1 + ((slow - mean) * _keep(slow_dispersion, noise)) / mean
    share += fast * _keep(fast_dispersion, noise) / mean
    share = np.maximum(share, 0.0)
    if _keep(fast_dispersion, noise) > 0.5:
        share[count == 0] = 0.0
    return tuple(round(float(p), 3) for p in share / share.mean())


def _keep(dispersion: float, noise: float) -> float:
    return float(np.sqrt(max(0.0, 1 - noise / dispersion))) if dispersion > 0 else 0.0


def _tick_s(t: np.ndarray) -> float | None:
    """The step to which a trace's times were cut, if they were (Mooncake: 3 s)."""
    gaps = np.diff(t)
    positive = gaps[gaps > 0]
    if len(positive) < 10 or len(positive) > 0.5 * len(gaps):
        return None
    tick = float(np.median(positive))
    multiple = positive / tick
    on_grid = np.abs(multiple - np.round(multiple)) < 0.01
    return float(f"{tick:.4g}") if on_grid.mean() > 0.95 else None


def _fit_bursts(base: Arrivals, t: np.ndarray, count: np.ndarray) -> Arrivals:
    """gap_cv and level_var by Gauss-Newton on the logarithms, each step a mean of a few draws."""
    enough = int(np.searchsorted(np.cumsum(count), _FIT_REQUESTS)) + 1
    n_bins = min(len(count), max(10, enough))
    windows = _windows(base)
    target = _within(base, t, windows, n_bins)

    def with_(theta: np.ndarray) -> Arrivals:
        gap, *level = np.exp(theta).tolist()
        return base.model_copy(update={"gap_cv": gap**0.5, "level_var": tuple(level)})

    def measured(theta: np.ndarray) -> np.ndarray:
        draws = [
            draw_arrivals(with_(theta), np.random.default_rng(seed), duration_s=n_bins * base.bin_s)
            for seed in range(6)
        ]
        return np.mean([_within(base, draw, windows, n_bins) for draw in draws], axis=0)

    theta = np.log(_first_guess(base, target))
    best, least = theta, np.inf
    step = 0.4
    for _ in range(12):
        now = measured(theta)
        error = target - now
        if np.abs(error).max() < least:
            best, least = theta, float(np.abs(error).max())
        if least < 0.02:
            break
        J = np.stack(
            [(measured(theta + step * e) - now) / step for e in np.eye(len(theta))], axis=1
        )
        # damped: levels that no window can see stay where they are
        move = np.linalg.solve(J.T @ J + 0.02 * np.eye(len(theta)), J.T @ error)
        theta = np.clip(theta + np.clip(move, -1, 1), np.log(0.003), np.log(60))
        theta[0] = np.clip(theta[0], np.log(0.05), np.log(6))
    gap, *level = np.exp(best)
    return base.model_copy(
        update={
            "gap_cv": round(float(gap) ** 0.5, 4),
            "level_var": tuple(round(float(v), 4) if v > 0.005 else 0.0 for v in level),
        }
    )


def _first_guess(a: Arrivals, target: np.ndarray) -> np.ndarray:
    """gap_cv**2 and level variances: what each window's dispersion has over the one before.

    Levels of variance v and length s add about rate * s * v to the dispersion of windows of s.
    """
    n = len(a.level_s)
    dispersion = np.maximum.accumulate(np.exp(target))
    more = np.diff(dispersion, append=[dispersion[-1]] * n)[:n]
    level = more / (a.rate_per_s * np.array(a.level_s))
    return np.array([np.clip(dispersion[0], 0.2, 2.0), *np.clip(level, 0.01, 5.0)])


def _windows(a: Arrivals) -> list[float]:
    if not a.tick_s:
        return list(_WINDOWS_S)
    ticks = dict.fromkeys(int(np.ceil(w / a.tick_s)) for w in _WINDOWS_S)
    return [n * a.tick_s for n in ticks if 2 * n * a.tick_s <= a.bin_s]


def _within(a: Arrivals, t: np.ndarray, windows: list[float], n_bins: int) -> np.ndarray:
    """What the fit matches, as logarithms: spread of gaps, then of counts by window.

    Gaps: their squared coefficient of variation, each gap measured by its bin's mean rate (left
    out where times are cut to ticks).  Counts: var/mean around their own bin's mean.
    """
    if a.tick_s:  # to the middle of its step, clear of rounding at window edges
        t = (np.round(t / a.tick_s) + 0.5) * a.tick_s
    which = (t // a.bin_s).astype(np.int64)
    out = [] if a.tick_s else [_gap_spread(t, which, n_bins)]
    for w in windows:
        k = int(a.bin_s // w)
        place = ((t - which * a.bin_s) / w).astype(np.int64)
        inside = (which < n_bins) & (place < k)
        flat = np.bincount(which[inside] * k + place[inside], minlength=n_bins * k)
        count = flat.reshape(n_bins, k)
        spread = (count - count.mean(axis=1, keepdims=True)).var(axis=1).sum() * k / (k - 1)
        out.append(spread / max(count.mean(axis=1).sum(), 1e-9))
    return np.log(np.maximum(out, 1e-3))


def _gap_spread(t: np.ndarray, which: np.ndarray, n_bins: int) -> float:
    rate = np.bincount(which, minlength=n_bins)  # arrivals a bin
    # bins with few arrivals say little about gaps, and a gap across bins has no one rate
    same = (which[1:] == which[:-1]) & (which[1:] < n_bins) & (rate[which[1:]] >= 5)
    gaps = np.diff(t)[same] * rate[which[1:][same]]
    return float(gaps.var() / gaps.mean() ** 2) if len(gaps) > 10 else 1.0
