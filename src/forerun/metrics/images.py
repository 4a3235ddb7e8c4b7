"""Figures of images and videos that were made: how many, what each took, cost and used."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.metrics.figure import Figure, plural, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.leaps import span_ps
from forerun.sim.log import Log

#: what a figure of text says of a request for an image: nothing
OF_TEXT = frozenset({
    "ttft_s", "tpot_s", "itl_s", "output_tokens_per_s", "total_tokens_per_s",
    "output_tokens_per_s_per_device", "kv_peak", "kv_mean", "energy_j_per_output_token",
    "usd_per_million_output_tokens", "usd_per_million_tokens", "gco2e_per_million_output_tokens",
})  # fmt: skip
#: what a figure of single answers says of chunks of streams: nothing
OF_ANSWERS = frozenset({
    "attainment", "goodput_per_s", "images_per_s", "energy_j_per_image", "usd_per_image",
    "requests_per_s",
})  # fmt: skip


def makes(log: Log) -> bool:
    """Whether the run's requests asked for images or videos."""
    return log.frames is not None


def figures(part: View, joule: float | None, usd: float | None) -> dict[str, Any]:
    """images_per_s, frames_per_s, step_s, per image energy and money, showing; None for text.

    An image is an answer, however many frames it has.
    """
    log = part.log
    images = frames = step = showing = branches = longer = None
    hit = loads = wait = None
    n = n_frames = 0.0
    if log.frames is not None:
        ended = part.ended
        n, n_frames = float(len(ended)), float(log.frames[ended["request"]].sum())
        images, frames = ratio(n, part.duration_s), ratio(n_frames, part.duration_s)
        step = _step_s(part)
        if log.encodes is not None and part.whole:
            busy = float(log.replicas["busy_ps"].sum())
            showing = ratio(float(log.encodes["show_ps"].sum()), busy)
            if log.branched is not None:
                branches = ratio(float(log.branched["busy_ps"].sum()), busy)
                longer = ratio(float(log.branched["added_ps"].sum()), busy)
        if log.netted is not None and part.whole and log.netted["n_asked"].any():
            asked = float(log.netted["n_asked"].sum())
            hit = float(log.netted["n_there"].sum()) / asked
            loads = int(log.netted["n_loads"].sum())
            wait = ratio(float(log.netted["wait_ps"].sum()) * PS, float(len(log.requests)))
    steps, price = "steps x cost table", "price given x time"
    return {
        "images_per_s": Figure(images, "image/s", "requests"),
        "frames_per_s": Figure(frames, "frame/s", "requests"),
        "denoising_step_s": Figure(step, "s", "steps"),
        "showing": Figure(showing, "share", "steps"),
        "controlnets": Figure(branches, "share", "steps"),
        "controlnets_added": Figure(longer, "share", "steps"),
        "controlnet_hit": Figure(hit, "share", "requests"),
        "controlnet_loads": Figure(loads, "count", "replicas"),
        "controlnet_wait_s": Figure(wait, "s", "requests"),
        "energy_j_per_image": Figure(ratio(joule, n) if n else None, "J/image", steps),
        "usd_per_image": Figure(ratio(usd, n) if n else None, "USD/image", price),
        "energy_j_per_frame": Figure(
            ratio(joule, n_frames) if n_frames > n else None, "J/frame", steps
        ),
        "usd_per_frame": Figure(ratio(usd, n_frames) if n_frames > n else None, "USD/frame", price),
    }


def _step_s(part: View) -> float | None:
    """Mean time of a step of denoising; None when the log kept no steps."""
    if part.leaps is None:
        return None
    rows = part.leaps[part.leaps["n_seqs"] > 0]  # neither text encoders nor VAE
    return ratio(float(span_ps(rows).sum()) * PS, float(rows["n_steps"].sum()))


def told(part: View) -> list[str]:
    """What images were made in, in a sentence."""
    log = part.log
    if log.frames is None or log.encodes is None or not part.whole:
        return []
    rows = part.ended
    if not len(rows):
        return []
    busy = float(log.replicas["busy_ps"].sum())
    shown = float(log.encodes["show_ps"].sum())
    read = float(log.encodes["busy_ps"].sum())
    parts = (
        f"text encoders {text(ratio(read, busy), 'share')}, VAE {text(ratio(shown, busy), 'share')}"
    )
    tokens = float(rows["isl"].mean())
    more = []
    if log.branched is not None and log.branched["n_steps"].any():
        done = log.branched
        n = float(done["n_steps"].sum())
        each, longer = (float(done[name].sum()) * PS / n for name in ("busy_ps", "added_ps"))
        of_all = ratio(n, float(log.replicas["n_steps"].sum()))
        more = [
            f"{text(of_all, 'share')} of the steps had ControlNets, which took {text(each, 's')} "
            f"of each and made it {text(longer, 's')} longer."
        ]
        if log.netted is not None and log.netted["n_asked"].any():
            more.append(_came(log.netted))
    return [
        f"{plural(len(rows), 'request')} took {rows['n_out'].mean():,.1f} steps of {tokens:,.0f} "
        f"tokens each on average; of the busy time {parts}, the rest denoising.",
        *more,
    ]


def _came(netted: np.ndarray) -> str:
    """What ControlNets that come and go cost a run."""
    n, far, out = (int(netted[name].sum()) for name in ("n_loads", "n_far", "n_evicted"))
    hit = float(netted["n_there"].sum()) / float(netted["n_asked"].sum())
    beyond = f", {far:,} of them from beyond the host" if far else ""
    each = text(float(netted["load_ps"].sum()) * PS / max(n, 1), "s")
    return (
        f"{text(hit, 'share')} of the ControlNets that requests use were on the replica to which "
        f"they came; {n:,} had to come{beyond}, which took {each} each, and {out:,} made room."
    )
