"""A trace in a few numbers: rate, burstiness, lengths, sharing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from forerun.spec.requests import Requests

NAN = math.nan


@dataclass(frozen=True)
class Description:
    """What a trace is like.  Numbers that it cannot give are NaN (None for counts).

    dispersion_*: index of dispersion of counts, var/mean over windows; 1 for a Poisson process.
    prefix_hit_rate: share of prompt tokens that stand in the leading blocks of an earlier prompt,
    which is what a prefix cache of infinite size would save.
    """

    n: int
    duration_s: float
    rate_per_s: float
    interarrival_cv: float
    dispersion_1s: float
    dispersion_10s: float
    dispersion_60s: float
    peak_per_min: int | None
    mean_per_min: float
    isl_mean: float
    isl_p50: float
    isl_p90: float
    isl_p99: float
    isl_max: int
    osl_mean: float
    osl_p50: float
    osl_p90: float
    osl_p99: float
    osl_max: int
    length_correlation: float
    prefix_hit_rate: float
    n_sessions: int | None
    requests_per_session: float
    n_tenants: int | None

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """(name, value, unit) of each number known, for a table."""
        units = {
            "duration_s": "s",
            "rate_per_s": "/s",
            "peak_per_min": "/min",
            "mean_per_min": "/min",
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                continue
            unit = "tokens" if field.name[:4] in ("isl_", "osl_") else units.get(field.name, "")
            yield field.name, value, unit


def describe(requests: Requests) -> Description:
    """The description of some requests (at least one)."""
    t, isl, osl = requests.arrival_s, requests.isl, requests.osl
    n, duration = len(requests), requests.duration_s
    session, tenant = requests.session, requests.tenant
    sessions = None if session is None else np.unique(session[session >= 0])
    per_min = counts(t, 60.0)
    varied = n > 1 and isl.std() > 0 and osl.std() > 0
    lengths = {
        f"{name}_{key}": value
        for name, tokens in (("isl", isl), ("osl", osl))
        for key, value in _length(tokens).items()
    }
    return Description(
        n=n,
        duration_s=duration,
        rate_per_s=(n - 1) / duration if duration > 0 else NAN,
        interarrival_cv=interarrival_cv(t),
        dispersion_1s=dispersion(t, 1.0),
        dispersion_10s=dispersion(t, 10.0),
        dispersion_60s=dispersion(t, 60.0),
        peak_per_min=int(per_min.max()) if len(per_min) else None,
        mean_per_min=float(per_min.mean()) if len(per_min) else NAN,
        length_correlation=float(np.corrcoef(isl, osl)[0, 1]) if varied else NAN,
        prefix_hit_rate=prefix_hit_rate(requests),
        n_sessions=None if sessions is None else len(sessions),
        requests_per_session=(
            float((session >= 0).sum() / len(sessions))
            if session is not None and sessions is not None and len(sessions)
            else NAN
        ),
        n_tenants=None if tenant is None else len(np.unique(tenant)),
        **lengths,
    )


def _length(tokens: np.ndarray) -> dict[str, Any]:
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).tolist()
    mean = float(tokens.mean())
    return {"mean": mean, "p50": p50, "p90": p90, "p99": p99, "max": int(tokens.max())}


def counts(arrival_s: np.ndarray, window_s: float) -> np.ndarray:
    """Arrivals in each whole window from the first arrival on: int64 [duration // window]."""
    since = arrival_s - arrival_s[0]
    n = int(since[-1] // window_s)
    return np.bincount((since / window_s).astype(np.int64), minlength=n)[:n]


def dispersion(arrival_s: np.ndarray, window_s: float) -> float:
    """var/mean of arrivals a window; NaN with fewer than 10 windows."""
    count = counts(arrival_s, window_s)
    return float(count.var() / count.mean()) if len(count) >= 10 and count.any() else NAN


def interarrival_cv(arrival_s: np.ndarray) -> float:
    """Standard deviation over mean of the gaps; NaN with fewer than 3 arrivals or no time."""
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.any() else NAN


def leading_hits(requests: Requests) -> np.ndarray:
    """Leading blocks of each prompt that earlier prompts held: int64 [N]."""
    hashes, starts = requests.block_hashes, requests.block_starts
    assert hashes is not None
    assert starts is not None
    count = np.diff(starts)
    owner = np.repeat(np.arange(len(count)), count)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    new = owner[first][inverse] == owner  # nobody before this request had the block
    within = np.arange(len(hashes)) - np.repeat(starts[:-1], count)
    first_new = count.copy()
    np.minimum.at(first_new, owner[new], within[new])
    return first_new


def prefix_hit_rate(requests: Requests) -> float:
    """Share of prompt tokens that an infinite prefix cache would save; NaN without hashes."""
    if requests.block_hashes is None:
        return NAN
    saved = np.minimum(leading_hits(requests) * requests.hash_tokens, requests.isl)
    return float(saved.sum() / requests.isl.sum())
