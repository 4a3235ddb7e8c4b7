"""Figures of encoders: images that became tokens, the time it took, embeddings that moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from forerun.metrics.figure import Figure, plural, ratio, text
from forerun.metrics.latency import PS
from forerun.metrics.window import View
from forerun.sim.log import Log


def encodes(log: Log) -> np.ndarray:
    """Which replicas encode and do nothing else: bool [replicas]."""
    return np.isin(log.pool_of_replica, log.meta.get("encode_pools", ()))


def _shown(log: Log) -> bool:
    """Whether prompts showed something (where images are made, what is encoded is text)."""
    return log.frames is None and log.encodes is not None and bool(log.encodes["n_items"].any())


def figures(part: View) -> dict[str, Any]:
    """items_encoded, items_per_s, encoding, embeddings_moved_bytes_per_s; None without images."""
    log = part.log
    items = rate = share = moved = None
    if part.whole and _shown(log) and log.encodes is not None:
        done = log.encodes
        items = int(done["n_items"].sum())
        rate = ratio(float(items), part.duration_s)
        who = encodes(log) | (done["n_items"] > 0)
        share = ratio(float(done["busy_ps"].sum()) * PS, part.duration_s * int(who.sum()))
        if encodes(log).any():
            sent = log.replicas["moved_bytes"][encodes(log)]
            moved = ratio(float(sent.sum()), part.duration_s)
    return {
        "items_encoded": Figure(items, "count", "replicas"),
        "items_per_s": Figure(rate, "items/s", "replicas"),
        "encoding": Figure(share, "share", "replicas that encode"),
        "embeddings_moved_bytes_per_s": Figure(moved, "bytes/s", "transfers"),
    }


def told(part: View) -> list[str]:
    """How many images were encoded, where, and how long each took."""
    log = part.log
    if not part.whole or log.encodes is None or not _shown(log):
        return []
    done, apart = log.encodes, encodes(log)
    items, busy_s = int(done["n_items"].sum()), float(done["busy_ps"].sum()) * PS
    patches = float(done["n_units"].sum()) / items
    where = "on replicas of their own" if apart.any() else "in front of the model"
    busy = float(log.replicas["busy_ps"][done["n_items"] > 0].sum()) * PS
    rest = "" if apart.any() else f", {text(ratio(busy_s, busy), 'share')} of the busy time there"
    return [
        f"Encoders computed {plural(items, 'item')} (images, or frames taken together) of "
        f"{patches:,.0f} patches on average {where}: {text(busy_s / items, 's')} of steps "
        f"each{rest}."
    ]
