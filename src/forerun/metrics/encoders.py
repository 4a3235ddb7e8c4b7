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
    """items_encoded, items_per_s, encoding, embeddings_moved_bytes_per_s, embedding_hit,
    encoder_saved_s; None without images, or where no embeddings are kept."""
    log = part.log
    items = rate = share = moved = found = spared = None
    if part.whole and _shown(log) and log.encodes is not None:
        done = log.encodes
        if (asked := int(done["n_asked"].sum())) > 0:
            found = ratio(float(done["n_found"].sum()), asked)
            spared = float(done["spared_ps"].sum()) * PS
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
        "embedding_hit": Figure(found, "share", "images looked for"),
        "encoder_saved_s": Figure(spared, "s", "replicas"),
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
        f"Encoders computed {plural(items, 'item')} (images, groups of frames, windows of sound) "
        f"of {patches:,.0f} patches (or 20 ms) on average {where}: "
        f"{text(busy_s / items, 's')} of steps each{rest}.",
        *_kept(part),
    ]


def _kept(part: View) -> list[str]:
    """What caches of embeddings gave."""
    log = part.log
    held = log.meta.get("embeddings")
    if held is None or log.encodes is None:
        return []
    done = log.encodes
    asked, found = int(done["n_asked"].sum()), int(done["n_found"].sum())
    spared_s, read_s = (float(done[name].sum()) * PS for name in ("spared_ps", "read_ps"))
    where = "that of the fleet" if held["shared"] else "that of a replica"
    read = f", and took {text(read_s, 's')} to read" if read_s else ""
    return [
        f"Caches of embeddings held {found:,} of {plural(asked, 'item')} looked for "
        f"({text(ratio(found, asked), 'share')}), which spared encoders {text(spared_s, 's')} of "
        f"steps{read}; {where} came to {text(held['peak_bytes'], 'bytes')} of "
        f"{text(held['capacity_bytes'], 'bytes')}, and {plural(held['evicted'], 'embedding')} made "
        "room for others."
    ]
