"""Requests of several regions: shares of one traffic, each by the clock of its own day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from forerun.spec.regions import Region
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces.draw import requests_of
from forerun.spec.workload import Traffic


def drawn_in(regions: Mapping[str, Region], traffic: Traffic, *, seed: int, **how: Any) -> Requests:
    """The requests of a traffic (as `requests_of` gives them), with regions from all of them."""
    if not regions:
        return requests_of(traffic, seed=seed, **how)
    drawn = requests_of(summed(traffic, regions), seed=seed, **how)
    return with_regions(drawn, traffic, regions, seed=seed)


def summed(traffic: Traffic, regions: Mapping[str, Region]) -> Traffic:
    """The traffic of all regions together.  Days that begin at different times make one wave:

    sum of share_g swing sin(2 pi (t + ahead_g) / period) = S sin(2 pi (t + A) / period)
    """
    if traffic.arrivals != "diurnal":
        return traffic
    share, ahead_s = _columns(regions)
    turn = 2j * np.pi / traffic.period_s
    wave = complex(np.sum(share / share.sum() * np.exp(turn * ahead_s)))
    swing, ahead = traffic.swing * abs(wave), traffic.ahead_s + np.angle(wave) / turn.imag
    return traffic.model_copy(update={"swing": min(swing, 1.0), "ahead_s": float(ahead)})


def with_regions(
    requests: Requests, traffic: Traffic, regions: Mapping[str, Region], *, seed: int
) -> Requests:
    """The requests of `summed` traffic, each with the number of the region that it comes from.

    Drawn at random (stream `regions`) by what each region has of the rate at that moment; one for a
    whole conversation or workflow.
    """
    share, ahead_s = _columns(regions)
    weight = np.tile(share, (len(requests), 1))
    if traffic.arrivals == "diurnal":
        local_s = requests.arrival_s[:, None] + traffic.ahead_s + ahead_s
        weight = weight * (1 + traffic.swing * np.sin(2 * np.pi * local_s / traffic.period_s))
    edge = np.cumsum(weight, axis=1)
    u = stream(seed, "regions").random(len(requests)) * edge[:, -1]
    which = np.minimum((u[:, None] >= edge).sum(axis=1), len(share) - 1).astype(np.int64)
    return replace(requests, region=together(requests, which))


def _columns(regions: Mapping[str, Region]) -> tuple[np.ndarray, np.ndarray]:
    share = np.array([region.share for region in regions.values()])
    return share, np.array([region.ahead_s for region in regions.values()])


def together(requests: Requests, which: np.ndarray) -> np.ndarray:
    """The region of the first request of each conversation and workflow, for all of it."""
    for group in (requests.session, requests.workflow):
        if group is not None:
            _, first, member = np.unique(group, return_index=True, return_inverse=True)
            which = np.where(group >= 0, which[first][member], which)
    return which
