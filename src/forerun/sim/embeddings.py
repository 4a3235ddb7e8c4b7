"""Embeddings that are kept by the items' names: where, how many, how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun.errors import Problem, SpecError
from forerun.sim.core import rows_fleet, rows_kept, state
from forerun.sim.tables import PS
from forerun.spec.caches import EmbeddingCache
from forerun.spec.requests import Requests


@dataclass(frozen=True)
class Cache:
    """What each replica that encodes keeps of what it has encoded, or the fleet (`shared`).

    bytes_per_s : by which it is read; None: it is where embeddings are needed.
    """

    capacity_bytes: float
    shared: bool = False
    bytes_per_s: float | None = None
    latency_s: float = 0.0


def arrays(cache: Cache | None, n_replicas: int) -> dict[str, np.ndarray]:
    """The fields of a `State` on embeddings that are kept; none is at first."""
    n = 0 if cache is None else 1 if cache.shared else n_replicas
    albums = state.rows(n, rows_kept.ALBUM)
    albums.oldest = albums.newest = -1
    if cache is not None:
        albums.most_bytes, albums.shared = int(cache.capacity_bytes), int(cache.shared)
        if cache.bytes_per_s is not None:
            albums.bytes_per_ps = cache.bytes_per_s / PS
            albums.latency_ps = round(cache.latency_s * PS)
    return {
        "items": np.zeros(0, dtype=np.int64),
        "albums": albums,
        "pictures": np.zeros((n, 0), dtype=rows_kept.PICTURE).view(np.recarray),
    }


def join(cache: Cache | None, engines: Any, replicas: Any) -> None:
    """Tell replicas where they look; a pool that only encodes reads in steps of its own row."""
    if cache is None:
        return
    alone = engines.role == rows_fleet.ROLE["encode"]
    engines.encoder_row[alone] = np.flatnonzero(alone)
    replicas.album = 0 if cache.shared else np.arange(len(replicas))


def named(now: state.State, numbers: dict[int, int], requests: Requests) -> dict[str, Any]:
    """`items` and `pictures` with those of more requests, and where each begins.

    numbers : of all names so far; grows.  Names of two models are two.
    """
    assert requests.n_items is not None
    old, n = now.items, requests.n_items
    at = len(old) + np.concatenate([[0], np.cumsum(n)[:-1]]).astype(np.int64)
    if requests.item_names is None:
        return {"at": at, "items": np.concatenate([old, np.full(n.sum(), -1)])}
    names = requests.item_names
    if requests.model is not None:
        names = np.where(names < 0, names, names ^ (np.repeat(requests.model, n) << 50))
    kinds, which = np.unique(names, return_inverse=True)
    known = [-1 if name < 0 else numbers.setdefault(name, len(numbers)) for name in kinds.tolist()]
    more = len(numbers) - now.pictures.shape[1]
    pictures = np.zeros((len(now.albums), len(numbers)), dtype=rows_kept.PICTURE)
    pictures[:, : len(numbers) - more] = now.pictures
    return {
        "at": at,
        "items": np.concatenate([old, np.array(known, dtype=np.int64)[which.reshape(-1)]]),
        "pictures": pictures.view(np.recarray),
    }


def told(now: state.State) -> dict[str, int] | None:
    """What the caches held; None where there is none."""
    if not len(now.albums):
        return None
    return {
        "capacity_bytes": int(now.albums.most_bytes[0]),
        "peak_bytes": int(now.albums.peak_bytes.max()),
        "evicted": int(now.albums.n_evicted.sum()),
        "shared": int(now.albums.shared[0]),
    }


def check_names(said: EmbeddingCache | None, requests: Requests) -> None:
    """Raises SpecError for a cache in which nothing would ever be found."""
    if said is not None and requests.n_items is not None and requests.item_names is None:
        what = "finds embeddings by the names of images, and those of these requests have none"
        fix = "traffic.media.distinct: 1000, or a column image_hashes in the trace"
        raise SpecError.one("deployment.embedding_cache", what, fix)


def check_cache(cache: Cache | None, pools: Sequence[Any], n_regions: int) -> None:
    """Raises SpecError for a cache of embeddings that nobody fills, or that cannot be reached."""
    if cache is None:
        return
    where, problems = "deployment.embedding_cache", []
    if not any(one.encoder >= 0 or one.pool.role == "encode" for one in pools):
        what = "keeps embeddings, and nobody encodes anything"
        problems.append(Problem(where, what, "traffic.media, or no embedding_cache"))
    if cache.shared and n_regions > 1:
        what = "one cache of embeddings for a fleet in several regions: ways there are not known"
        problems.append(Problem(where, what, "memory: device or host, a cache for each replica"))
    if problems:
        raise SpecError(*problems)
