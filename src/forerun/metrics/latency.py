"""Latencies of single requests.  All functions take rows of dtype DONE and return float64 [N].

Seconds; NaN where a request has no such latency (it never got there).
"""

from __future__ import annotations

import numpy as np

from forerun.sim.core.rows_log import STATUS

PS = 1e-12


def finished(requests: np.ndarray) -> np.ndarray:
    """Which requests got all their tokens: bool [N]."""
    return requests["status"] == STATUS["finished"]


def ttft_s(requests: np.ndarray) -> np.ndarray:
    """Arrival to first output token, queueing included."""
    first, arrival = requests["first_token_ps"], requests["arrival_ps"]
    return np.where(first >= 0, (first - arrival) * PS, np.nan)


def e2el_s(requests: np.ndarray) -> np.ndarray:
    """Arrival to last token; of finished requests only."""
    total = (requests["done_ps"] - requests["arrival_ps"]) * PS
    return np.where(finished(requests), total, np.nan)


def tpot_s(requests: np.ndarray) -> np.ndarray:
    """(last token - first token) / (output tokens - 1); NaN for one output token.

    Of finished requests only.
    """
    n = requests["n_out"].astype(float) - 1
    span = (requests["done_ps"] - requests["first_token_ps"]) * PS
    defined = finished(requests) & (n > 0)
    return np.where(defined, span / np.where(n > 0, n, 1), np.nan)


def max_itl_s(requests: np.ndarray) -> np.ndarray:
    """The longest gap between two tokens of a finished request; NaN for one output token."""
    defined = finished(requests) & (requests["n_out"] > 1)
    return np.where(defined, requests["max_itl_ps"] * PS, np.nan)


def queue_s(requests: np.ndarray) -> np.ndarray:
    """Arrival to the start of the first step that computed some of it."""
    scheduled, arrival = requests["scheduled_ps"], requests["arrival_ps"]
    return np.where(scheduled >= 0, (scheduled - arrival) * PS, np.nan)
