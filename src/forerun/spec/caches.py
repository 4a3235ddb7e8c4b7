"""What is kept for requests that ask again: answers, and embeddings of what comes with prompts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from forerun.spec.base import Spec


class Shelf(Spec):
    """How a response cache treats the requests of one category."""

    skip: bool = False  # they go past the cache, without a lookup
    threshold: float = Field(default=0.8, ge=-1, le=1)  # cosine from which on (GPTCache's default)
    ttl_s: float | None = Field(default=None, ge=0)  # an answer is kept, from its end; None: always
    quota: int | None = Field(default=None, ge=0)  # answers kept; the one used longest ago goes
    quota_bytes: float | None = Field(default=None, ge=0)
    max_error: float | None = None  # of requests that may get a wrong answer: thresholds are learnt

    @model_validator(mode="after")
    def _learns(self) -> Shelf:
        return _one_way(self)

    @model_serializer(mode="wrap")
    def _without_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _said(plain(self))


class Category(Spec):
    """What differs for one category of requests; all else is as the cache says."""

    skip: bool | None = None
    threshold: float | None = Field(default=None, ge=-1, le=1)
    ttl_s: float | None = Field(default=None, ge=0)
    quota: int | None = Field(default=None, ge=0)
    quota_bytes: float | None = Field(default=None, ge=0)
    max_error: float | None = None

    @model_validator(mode="after")
    def _learns(self) -> Category:
        return _one_way(self)

    @model_serializer(mode="wrap")
    def _without_unsaid(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _said(plain(self))


def _said(data: dict[str, Any]) -> dict[str, Any]:
    """Without the way that is not taken, so that it reads (and hashes) as it was said."""
    other = "max_error" if data.get("max_error") is None else "threshold"
    return {name: value for name, value in data.items() if name != other}


def _one_way(said: Any) -> Any:
    """What a shelf or a category says, if it says either a threshold or an error to hold."""
    if said.max_error is None:
        return said
    if not 0 < said.max_error < 1:
        raise ValueError(
            f"max_error {said.max_error:g} is no share of requests that may get a wrong answer: "
            "more than 0 and less than 1, as in max_error: 0.02 (threshold: 1 gives none)"
        )
    if "threshold" in said.model_fields_set:
        raise ValueError(
            "threshold and max_error are two ways to say who gets an answer: threshold for a fixed "
            "similarity, max_error for one that is learnt; drop one of them"
        )
    return said


class ResponseCache(Shelf):
    """Answers kept in front of the fleet, given again to requests that ask alike.

    What it says itself holds for every category; `categories` says otherwise for some, and each has
    a quota of its own.  Every lookup embeds the request and searches; a hit fetches the answer, and
    gives it whole, or at a rate.  Source of `search_s`: an index in memory, Wang et al., 2510.26835
    (a vector database over the network: 30 ms).  `embed_s`, `fetch_s` and sizes are estimates: a
    small embedding model on the spot, 1,024 floats and 4 characters a token.
    """

    categories: dict[str, Category] = {}
    embed_s: float = Field(default=5e-3, ge=0)
    search_s: float = Field(default=2e-3, ge=0)
    fetch_s: float = Field(default=5e-3, ge=0)
    rate_per_s: float | None = Field(default=None, gt=0)  # tokens of an answer that was kept
    entry_bytes: float = Field(default=4096, ge=0)
    token_bytes: float = Field(default=4, ge=0)

    @property
    def lookup_s(self) -> float:
        return self.embed_s + self.search_s

    def shelf(self, category: str) -> Shelf:
        """What holds for a category."""
        said = {name: getattr(self, name) for name in Shelf.model_fields}
        own: dict[str, Any] = {}
        if category in self.categories:
            own = self.categories[category].model_dump(exclude_none=True)
        if "threshold" in own:
            said["max_error"] = None  # a category's own way replaces that of the cache
        said |= own
        if said["max_error"] is not None:
            del said["threshold"]
        return Shelf(**said)


class EmbeddingCache(Spec):
    """Embeddings that whoever encodes keeps for images, video and sound that come again.

    `memory` says where: on the devices of each replica, whole on each (vLLM's encoder cache), in
    each replica's host (NVIDIA Dynamo's embedding cache), or in one store of the fleet (vLLM's EC
    connectors).  The one used longest ago makes room.  What is not on the device is read by a
    `link`, or at `bandwidth_bytes_per_s`, one request after another.
    """

    capacity_bytes: float = Field(gt=0)
    memory: Literal["device", "host", "fleet"] = "device"
    link: str | None = None  # a catalog name
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    latency_s: float | None = Field(default=None, ge=0)  # the link's when absent

    @model_validator(mode="after")
    def _read_by(self) -> EmbeddingCache:
        by_link = self.link is not None or self.bandwidth_bytes_per_s is not None
        if self.memory == "device" and (by_link or self.latency_s is not None):
            raise ValueError("memory device is read where it is: drop link, bandwidth and latency")
        if self.memory != "device" and not by_link:
            raise ValueError(
                f"memory {self.memory} does not say how it is read: link, as in link: pcie5-x16, "
                "or bandwidth_bytes_per_s"
            )
        return self
