"""`Requests`: a workload as columns, one entry a request, sorted by arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from forerun.spec.wordings import Wordings

#: columns with one value a request
COLUMNS = (
    "arrival_s", "isl", "osl", "priority", "session", "tenant", "model", "adapter", "deadline_s",
    "workflow", "region", "took_s", "acceptance", "n_items", "item_width", "item_height",
    "item_units", "item_tokens", "item_s", "wording", "kept_tokens", "attended_tokens",
    "frames",
)  # fmt: skip

#: meta["blocks"] of requests whose block hashes name what stands in a block, not what a prompt
#: holds up to its end
CONTENT = "content"


#: meta key of requests that are chunks of streams: (frames a second, frames of a chunk)
STREAMS = "streams"


def chained(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Names of blocks by all that stands before them too: equal ones are equal prefixes.

    hashes, starts : int64 [sum], int64 [N+1] as in `Requests`.  Source of the mixing: splitmix64.
    """
    out = hashes.astype(np.uint64)
    n, first = np.diff(starts), np.asarray(starts[:-1])
    before = np.zeros(len(n), dtype=np.uint64)
    for place in range(int(n.max(initial=0))):
        at = first[n > place] + place
        mixed = (before[n > place] + out[at] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        out[at] = before[n > place] = mixed ^ (mixed >> np.uint64(27))
    return (out >> np.uint64(1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Requests:
    """What arrives, when, how long.  All arrays have the length of `arrival_s`.

    arrival_s : float64 [N], seconds from the start of the trace, non-decreasing.
    isl, osl  : int64 [N], input tokens and output tokens, both >= 1.
    priority  : int64 [N], lower is served first; absent when all are equal.
    session   : int64 [N], requests of one conversation share a number; -1 when none.
    tenant    : int64 [N], who pays; absent when one.
    model     : int64 [N], which of the run's models each asks for; absent when all ask for one.
    adapter   : int64 [N], the adapter (LoRA) that each names, -1 for none; absent when none does.
    deadline_s: float64 [N], when the whole answer must be there, from arrival; inf when none.
        In a workflow: from the arrival of the workflow.
    block_hashes, block_starts : int64 [sum], int64 [N+1]: the prompt's prefix blocks as hashes,
        request i owns block_hashes[block_starts[i]:block_starts[i+1]]; `hash_tokens` a block.
        With `answers_named` they go on into the answer, so that a later prompt can begin with it.
    workflow  : int64 [N], requests that belong together share a number, and arrive at one moment;
        -1 when none.
    successors, successor_starts, delay_s : int64 [E], int64 [N+1], float64 [E]: requests that wait
        for request i are successors[successor_starts[i]:successor_starts[i+1]].  Each is sent when
        the last of those it waits for has ended, and the delay since has passed.
    acceptance: float64 [N], chance that a token proposed for it is right, before those of the
        engine's `speculation`; -1 where it is not known.
    took_s    : float64 [N], what the answer took when it was recorded, from arrival to its end; nan
        where that is not known.
    region    : int64 [N], which of the case's regions each comes from; absent when there are none.
    n_items   : int64 [N], images (or pairs of video frames, ..) that each prompt begins with.
    item_width, item_height : int64 [N], their size in pixels.
    item_units, item_tokens : int64 [N], what the model's encoder computes for each of them
        (patches), and tokens of the prompt that it becomes; `isl` counts those.
    item_s    : float64 [N], seconds of each item where it is sound; 0 where it is none.
    item_names, item_starts : int64 [sum], int64 [N+1]: what each item is, -1 for one like no other;
        those of request i are item_names[item_starts[i]:item_starts[i+1]].  Before the model is
        known that of a video stands once, for all of its frames.
    kept_tokens, attended_tokens : int64 [N], caps of its own on KV in memory and on what decoding
        reads of it, beside the engine's; 0 where it has none.
    frames    : int64 [N], images of the answer, where a diffusion model makes it: `isl` counts what
        it computes in each of `osl` steps, and item_width and item_height are of the answer.
    wording   : int64 [N], the text of each, a place in `wordings`; -1 where it is like no other.
    """

    arrival_s: np.ndarray
    isl: np.ndarray
    osl: np.ndarray
    priority: np.ndarray | None = None
    session: np.ndarray | None = None
    tenant: np.ndarray | None = None
    model: np.ndarray | None = None
    adapter: np.ndarray | None = None
    deadline_s: np.ndarray | None = None
    block_hashes: np.ndarray | None = None
    block_starts: np.ndarray | None = None
    hash_tokens: int = 0
    answers_named: bool = False
    workflow: np.ndarray | None = None
    successors: np.ndarray | None = None
    successor_starts: np.ndarray | None = None
    delay_s: np.ndarray | None = None
    acceptance: np.ndarray | None = None
    region: np.ndarray | None = None
    took_s: np.ndarray | None = None
    n_items: np.ndarray | None = None
    item_width: np.ndarray | None = None
    item_height: np.ndarray | None = None
    item_units: np.ndarray | None = None
    item_tokens: np.ndarray | None = None
    item_s: np.ndarray | None = None
    item_names: np.ndarray | None = None
    item_starts: np.ndarray | None = None
    kept_tokens: np.ndarray | None = None
    attended_tokens: np.ndarray | None = None
    frames: np.ndarray | None = None
    wording: np.ndarray | None = None
    wordings: Wordings | None = None  # all texts: which ask the same, which look alike
    meta: Mapping[str, Any] = field(default_factory=dict)  # source, format, rows skipped and why

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, part: slice) -> Requests:
        """Consecutive requests (a slice of step 1) with everything that belongs to them.

        Of what waits for what, those pairs stay of which both are taken.
        """
        present = {c: getattr(self, c) for c in COLUMNS if getattr(self, c) is not None}
        taken: dict[str, Any] = {c: values[part] for c, values in present.items()}
        if self.successors is not None:
            taken |= take_successors(self, np.arange(len(self))[part])
        if self.block_hashes is not None and self.block_starts is not None:
            start, stop, _ = part.indices(len(self))
            starts = self.block_starts[start : max(start, stop) + 1]
            taken["block_hashes"] = self.block_hashes[starts[0] : starts[-1]]
            taken["block_starts"] = starts - starts[0]
        if self.item_names is not None and self.item_starts is not None:
            start, stop, _ = part.indices(len(self))
            starts = self.item_starts[start : max(start, stop) + 1]
            taken["item_names"] = self.item_names[starts[0] : starts[-1]]
            taken["item_starts"] = starts - starts[0]
        return replace(self, **taken)

    @property
    def duration_s(self) -> float:
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0


def take_successors(requests: Requests, index: np.ndarray) -> dict[str, np.ndarray]:
    """successors, successor_starts and delay_s among the chosen requests, renumbered."""
    after, starts, delay = requests.successors, requests.successor_starts, requests.delay_s
    assert after is not None
    assert starts is not None
    assert delay is not None
    place = np.full(len(requests), -1)
    place[index] = np.arange(len(index))
    before = place[np.repeat(np.arange(len(requests)), np.diff(starts))]
    kept = np.flatnonzero((before >= 0) & (place[after] >= 0))
    kept = kept[np.argsort(before[kept], kind="stable")]
    count = np.bincount(before[kept], minlength=len(index))
    return {
        "successors": place[after[kept]],
        "successor_starts": np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        "delay_s": delay[kept],
    }
