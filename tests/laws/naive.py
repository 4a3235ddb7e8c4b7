"""A second, independent serving simulator: one replica, one token at a time, nothing clever.

It keeps explicit lists and explicit block counts, and looks at every request in every step, the way
the engines' own schedulers are written.  Slow and plain on purpose: the core must agree with it
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Item:
    """A request in the naive simulator."""

    n: int
    arrival: int
    isl: int
    osl: int
    priority: int = 0
    computed: int = 0
    produced: int = 0
    blocks: int = 0
    scheduled: int = -1
    first: int = -1
    done: int = -1
    preemptions: int = 0
    recomputed: int = 0
    last_token: int = -1
    longest: int = 0
    gaps: list[int] = field(default_factory=list)
    chunk: int = 0
    decodes: bool = False  # its prompt (after a preemption: all it knew) has been computed

    @property
    def known(self) -> int:
        return self.isl + self.produced


def blocks_for(tokens: int, b: int) -> int:
    return -(-tokens // b)


class Naive:
    """One replica.  cost(n_tokens, n_seqs, decode contexts, chunks [(q, past)]) -> picoseconds."""

    def __init__(self, items, cost, *, batch, order, max_seqs, max_tokens, n_blocks, b, watermark,
                 reserve):  # fmt: skip
        self.items, self.cost = items, cost
        self.batch, self.order = batch, order
        self.max_seqs, self.max_tokens = max_seqs, max_tokens
        self.n_blocks, self.b, self.watermark, self.reserve = n_blocks, b, watermark, reserve
        self.free = n_blocks
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.least_free = n_blocks

    def key(self, item: Item):
        if self.order == "fcfs":
            return (item.arrival, item.n)
        if self.order == "shortest_prompt":
            return (item.isl, item.n)
        return (item.priority, item.arrival // 1024, item.n)

    def queue(self, item: Item) -> None:
        self.waiting.append(item)
        self.waiting.sort(key=self.key)

    def preempt_last(self) -> Item:
        victim = self.running.pop()
        self.free += victim.blocks
        victim.blocks = 0
        victim.preemptions += 1
        victim.recomputed += victim.computed
        victim.computed = 0
        victim.decodes = False
        self.queue(victim)
        return victim

    def take(self, item: Item, tokens: int) -> bool:
        """Blocks for `tokens` in all, preempting from the back; False if the item itself went."""
        want = blocks_for(tokens, self.b) - item.blocks
        while want > self.free:
            if self.preempt_last() is item:
                return False
        if want > 0:
            self.free -= want
            item.blocks += want
        return True

    def form(self) -> tuple[list[Item], list[Item]]:
        """(decoders, chunk computers) of the next step; blocks are taken."""
        kind = self.batch
        decoders = [r for r in self.running if r.decodes]
        budget = self.max_tokens
        whole = kind in ("prefill_first", "whole", "static")
        if kind in ("chunked", "whole"):
            budget -= len(decoders)
        may_admit = not (kind == "static" and self.running)
        preempted = False
        chunked: list[Item] = []

        def decode_all() -> bool:
            lost = False
            for r in list(self.running):
                if r in self.running and r.decodes and not self.take(r, r.computed + 1):
                    lost = True
            return lost

        before = sum(r.preemptions for r in self.items)
        if kind != "prefill_first" and not (kind == "static" and not self.running):
            decode_all()
        for r in list(self.running):
            if r in self.running and not r.decodes:
                q = min(r.known - r.computed, budget)
                if q > 0 and self.take(r, r.computed + q):
                    r.chunk = q
                    budget -= q
                    chunked.append(r)
        preempted = sum(r.preemptions for r in self.items) > before
        if not preempted and may_admit:
            while self.waiting and budget > 0 and len(self.running) < self.max_seqs:
                r = self.waiting[0]
                q = min(r.known, budget)
                if whole and q < r.known:
                    break
                tokens = {"chunk": q, "prompt": r.known, "full": r.isl + r.osl - 1}[self.reserve]
                if self.free - blocks_for(tokens, self.b) < self.watermark:
                    break
                self.waiting.pop(0)
                self.running.append(r)
                r.blocks = blocks_for(tokens, self.b)
                self.free -= r.blocks
                r.chunk = q
                budget -= q
                chunked.append(r)
        chunked = [r for r in chunked if r in self.running]
        if kind == "prefill_first":
            if chunked:
                return [], chunked
            decode_all()
        elif kind == "static" and chunked:
            return [], chunked
        return [r for r in self.running if r.decodes], chunked

    def run(self):
        todo = sorted(self.items, key=lambda r: (r.arrival, r.n))
        now = 0
        while todo or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, todo[0].arrival)
            while todo and todo[0].arrival <= now:
                self.queue(todo.pop(0))
            decoders, chunked = self.form()
            self.least_free = min(self.least_free, self.free)
            for r in chunked:
                if r.scheduled < 0:
                    r.scheduled = now
            ends = [r for r in chunked if r.computed + r.chunk == r.known]
            now += self.cost(
                len(decoders) + sum(r.chunk for r in chunked),
                len(decoders) + len(ends),
                [r.computed for r in decoders],
                [(r.chunk, r.computed) for r in chunked],
            )
            for r in decoders:
                r.computed += 1
            for r in chunked:
                r.computed += r.chunk
                r.chunk = 0
            for r in decoders + ends:
                r.produced += 1
                r.decodes = True
                if r.first < 0:
                    r.first = now
                else:
                    r.gaps.append(now - r.last_token)
                    r.longest = max(r.longest, now - r.last_token)
                r.last_token = now
                if r.produced == r.osl:
                    r.done = now
                    self.running.remove(r)
                    self.free += r.blocks
                    r.blocks = 0
        assert self.free == self.n_blocks
        return self.items
