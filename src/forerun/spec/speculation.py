"""`Speculation`: who proposes tokens, how many, and how often they are right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from forerun.spec.base import Spec
from forerun.spec.dtype import Dtype

Chance = Annotated[float, Field(ge=0, le=1)]


class Acceptance(Spec):
    """The chance that a proposed token is right, given that those before it in its row are.

    One of: `alpha` for every request; `beta`, the two parameters of a beta distribution that each
    request draws its own from; `requests`, chances of measured requests, which others draw from;
    `file`, a CSV file whose column `acceptance` has them; `by_position`, for the first, second, ..
    token of a row (the last one goes on).  `decay` is what a position has of the one before.  Which
    tokens are right belongs to the seed, the request and the place in its answer, so two policies
    face the same draws.

    Short forms: `0.8` is an alpha, `[0.8, 0.7]` is by position.
    """

    alpha: Chance | None = None
    beta: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    requests: tuple[Chance, ...] | None = None
    file: str | None = None
    by_position: tuple[Chance, ...] | None = None
    decay: float = Field(default=1.0, gt=0, le=1)
    source: str = "given"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return {"alpha": data}
        return {"by_position": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _one(self) -> Acceptance:
        ways = ("alpha", "beta", "requests", "file", "by_position")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise ValueError(f"says {found}; give one of {', '.join(ways)} (try: alpha: 0.7)")
        if self.requests == () or self.by_position == ():
            raise ValueError(f"{given[0]} is empty (try: alpha: 0.7)")
        return self


class Speculation(Spec):
    """Tokens proposed beside every decode step and verified by it.

    kind : `draft` is a model of its own, `heads` are further layers of the target that predict from
    its features one token after another (EAGLE, MTP), `ngram` looks the tokens up in the prompt.
    A tree has `tree[j]` branches at every node of depth j, all of which are verified.
    """

    kind: Literal["draft", "ngram", "heads"]
    acceptance: Acceptance
    k: int | None = Field(default=None, ge=0)  # most tokens in a row; the tree's depth, or 3
    tree: tuple[Annotated[int, Field(ge=1)], ...] = ()
    draft: str | None = None  # the draft's model, a catalog name
    device: str | None = None  # that the draft has of its own; absent: it shares the target's
    link: str | None = None  # from the target's devices to the draft's; its network when absent
    tp: int | None = Field(default=None, ge=1)  # of the draft; the target's when it shares devices
    dtype: Dtype | None = None  # of the draft's weights; its checkpoint's own when absent
    layers: int = Field(default=1, ge=1)  # of `heads`
    host_step_s: float = Field(default=0.0, ge=0)  # of the host, for each pass of the draft
    host_seq_s: float = Field(default=0.0, ge=0)  # a step, for each request that is drafted for

    @model_validator(mode="after")
    def _whole(self) -> Speculation:
        if self.kind == "draft" and self.draft is None:
            raise ValueError("has no draft model (try: draft: llama-3.2-1b)")
        if self.kind != "draft" and self.draft is not None:
            raise ValueError(f"{self.kind} takes no draft model (try: kind: draft)")
        if self.kind != "draft" and self.device is not None:
            raise ValueError(f"{self.kind} runs where the target runs (try: leave device out)")
        if self.tree and self.k is not None and self.k > len(self.tree):
            raise ValueError(f"k {self.k} is deeper than the tree (try: k: {len(self.tree)})")
        if self.tree and self.kind == "ngram":
            raise ValueError("an n-gram proposes one row (try: leave tree out)")
        return self

    @property
    def most(self) -> int:
        """Most tokens in a row, or levels of the tree; 0 proposes nothing."""
        if self.k is not None:
            return self.k
        return len(self.tree) or 3

    @property
    def levels(self) -> tuple[int, ...]:
        """Tokens at each depth from 0 (the last known one) to `most`."""
        out = [1]
        for depth in range(self.most):
            out.append(out[-1] * (self.tree[depth] if self.tree else 1))
        return tuple(out)
