"""From columns to `Requests`: every check that all formats share, selection, and comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forerun.errors import TraceError
from forerun.spec.requests import Requests, take_successors
from forerun.spec.traces._faults import Faults

MAX_TOKENS = 2**31 - 1  # the simulator's log holds lengths in 32 bits
_EXTRA = (
    "priority", "session", "tenant", "model", "adapter", "deadline_s", "workflow", "region",
    "took_s", "acceptance", "wording", "kept_tokens", "attended_tokens", "n_items", "item_width",
    "item_height", "item_units", "item_tokens", "item_s", "frames",
)  # fmt: skip
_GRAPH = ("successors", "successor_starts", "delay_s")


def build(
    faults: Faults,
    *,
    format: str,
    n_rows: int,
    lines: np.ndarray,
    arrival: np.ndarray | None,
    isl: np.ndarray,
    osl: np.ndarray,
    extra: Mapping[str, np.ndarray] | None = None,
    hashes: tuple[np.ndarray, np.ndarray, int] | None = None,
    items: tuple[np.ndarray, np.ndarray] | None = None,
    skip_bad: bool = False,
    sort: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> Requests:
    """Checked requests of a file.

    arrival : float64 [N] seconds, or int64 [N] nanoseconds of a wall clock (shifted to begin at
              0), or None if the file has no times (all 0, and `meta["arrivals"]` is "absent").
    isl, osl: float64 [N] as read.  hashes: block_hashes, block_starts, hash_tokens.
    items: item_names, item_starts.
    Raises TraceError naming all bad rows, unless skip_bad, which drops and counts them and sorts.
    """
    extra = dict(extra or {})
    good = np.ones(len(lines), dtype=bool)

    def refuse(reason: str, bad: np.ndarray, say) -> None:
        bad = bad & good
        faults.add_where(reason, bad, lines, say)
        good[bad] = False

    absent = arrival is None
    times = np.zeros(len(lines)) if arrival is None else arrival
    if times.dtype.kind == "f":
        refuse("nan", ~np.isfinite(times), lambda i: f"arrival is {times[i]}")
        refuse("negative_time", times < 0, lambda i: f"arrival {times[i]:g} s is negative")
    for name, tokens in (("input", isl), ("output", osl)):
        _refuse_tokens(refuse, name, tokens)
    if "deadline_s" in extra:
        late = extra["deadline_s"]
        refuse("bad_deadline", ~(late > 0), lambda i: f"deadline_s {late[i]:g} is not above 0")

    kept = np.flatnonzero(good)
    out_of_order = _out_of_order(times[kept])
    n_sorted = int(out_of_order.sum())
    if n_sorted and not (sort or skip_bad):
        highest = np.maximum.accumulate(times[kept])
        scale = 1e-9 if times.dtype.kind == "i" else 1.0
        faults.add_where(
            "unsorted", out_of_order, lines[kept],
            lambda k: f"arrives {(highest[k] - times[kept[k]]) * scale:g} s before a row above it",
        )  # fmt: skip
    if len(faults) and not skip_bad:
        raise faults.error(n_rows)
    if not len(kept):
        raise _nothing_left(faults, n_rows)
    if n_sorted:
        kept = kept[np.argsort(times[kept], kind="stable")]
    facts: dict[str, Any] = {
        "source": str(faults.path),
        "format": format,
        "n_rows": n_rows,
        "skipped": dict(sorted(faults.counts.items())),
        "sorted": n_sorted,
        **(meta or {}),
    }
    if absent:
        facts["arrivals"] = "absent"
    picked = times[kept]
    if picked.dtype.kind == "i":
        facts["start"] = str(picked[0].astype("M8[ns]"))
        picked = (picked - picked[0]) / 1e9
    whole = Requests(
        arrival_s=times, isl=isl, osl=osl, meta=facts,
        block_hashes=hashes[0] if hashes else None,
        block_starts=hashes[1] if hashes else None,
        hash_tokens=hashes[2] if hashes else 0,
    )  # fmt: skip
    blocks = take_blocks(whole, kept) if hashes else (None, None)
    columns: dict[str, Any] = {name: extra[name][kept] for name in _EXTRA if name in extra}
    if items is not None:
        columns["item_names"], columns["item_starts"] = take_lists(*items, kept)
    return Requests(
        arrival_s=picked.astype(np.float64),
        isl=isl[kept].astype(np.int64),
        osl=osl[kept].astype(np.int64),
        block_hashes=blocks[0],
        block_starts=blocks[1],
        hash_tokens=whole.hash_tokens,
        meta=facts,
        **columns,
    )


def _refuse_tokens(refuse, name: str, tokens: np.ndarray) -> None:
    def say(i: int) -> str:
        return f"{tokens[i]:.15g} {name} tokens"

    refuse("nan", ~np.isfinite(tokens), say)
    refuse("negative_tokens", tokens < 0, say)
    refuse("zero_tokens", tokens == 0, lambda i: f"{say(i)}: a request has at least 1")
    refuse("not_whole", tokens != np.floor(tokens), lambda i: f"{say(i)}: not a whole number")
    refuse("too_large", tokens > MAX_TOKENS, lambda i: f"{say(i)}: more than {MAX_TOKENS}")


def _out_of_order(times: np.ndarray) -> np.ndarray:
    """Rows that arrive before some row above them: bool [N]."""
    return times < np.maximum.accumulate(times) if len(times) else np.zeros(0, dtype=bool)


def _nothing_left(faults: Faults, n_rows: int) -> TraceError:
    error = faults.error(n_rows)
    what = f"none of {n_rows} rows can be used"
    return TraceError(*error.problems, *TraceError.one(str(faults.path), what).problems)


def take_blocks(requests: Requests, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """block_hashes and block_starts of the chosen requests."""
    starts, hashes = requests.block_starts, requests.block_hashes
    assert starts is not None
    assert hashes is not None
    return take_lists(hashes, starts, index)


def take_lists(
    values: np.ndarray, starts: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lists of the chosen ones, one after another, and where each begins."""
    count = (starts[1:] - starts[:-1])[index]
    new = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    within = np.arange(new[-1]) - np.repeat(new[:-1], count)
    return values[np.repeat(starts[:-1][index], count) + within], new


def take(requests: Requests, index: np.ndarray, **replaced: Any) -> Requests:
    """The chosen requests, in the order given; keyword arguments replace columns or meta."""
    columns: dict[str, Any] = {
        name: value[index]
        for name in ("arrival_s", "isl", "osl", *_EXTRA)
        if (value := getattr(requests, name)) is not None
    }
    if requests.block_hashes is not None:
        columns["block_hashes"], columns["block_starts"] = take_blocks(requests, index)
        columns["hash_tokens"] = requests.hash_tokens
        columns["answers_named"] = requests.answers_named
    if requests.item_names is not None and requests.item_starts is not None:
        columns["item_names"], columns["item_starts"] = take_lists(
            requests.item_names, requests.item_starts, index
        )
    columns["wordings"] = requests.wordings
    if requests.successors is not None:
        columns |= take_successors(requests, index)
    return Requests(**{**columns, "meta": requests.meta, **replaced})


def same(a: Requests, b: Requests, *, time_tol_s: float = 0.0) -> bool:
    """Are all columns equal (meta aside), arrivals within a tolerance?"""
    if len(a) != len(b) or np.abs(a.arrival_s - b.arrival_s).max(initial=0) > time_tol_s:
        return False
    lists = ("block_hashes", "block_starts", "item_names", "item_starts")
    names = ("isl", "osl", *_EXTRA, *_GRAPH, *lists)
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    if any((x is None) != (y is None) for x, y in pairs):
        return False
    equal = all(x is None or np.array_equal(x, y) for x, y in pairs)
    blocks = (a.hash_tokens, a.answers_named) == (b.hash_tokens, b.answers_named)
    return equal and blocks


def lost(requests: Requests, format: str, *held: str) -> tuple[str, ...]:
    """Sentences: which columns of these requests a format cannot hold."""
    lists = ("successors", "block_hashes", "item_names")
    names = [n for n in (*_EXTRA, *lists) if getattr(requests, n) is not None]
    return tuple(f"{format} holds no {name}: left out" for name in names if name not in held)
