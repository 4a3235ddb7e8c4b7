"""Adapters (LoRA): which are asked for how often, and how replicas keep and run them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from forerun.spec.base import Spec

#: parts of a model that adapters can change
Part = Literal["attention", "ffn"]


class AdapterTraffic(Spec):
    """Each request names one of n adapters, drawn at random; popular ones come more often."""

    n: int = Field(ge=1, le=100_000)
    skew: float = Field(default=1.0, ge=0)  # Zipf: adapter a has weight 1 / (a + 1) ** skew
    share: float = Field(default=1.0, gt=0, le=1)  # of the requests; the others want the base


class Adapters(Spec):
    """How replicas keep adapters and run them, in vLLM's words where it has some.

    A replica has `slots` for adapters, each of the largest rank, taken from what the KV cache would
    have; at most `max_loras` different ones are in a batch.  Others come from the host by `link`,
    one after another; the one used longest ago makes room.  With `max_cpu_loras` the host keeps so
    many, and others come there by `far_link` first.
    """

    ranks: tuple[int, ...] = (16,)  # of adapters 0, 1, .., again from the first when they run out
    modules: tuple[Part, ...] = ("attention", "ffn")  # whose projections they change
    max_loras: int = Field(default=8, ge=1)
    slots: int | None = Field(default=None, ge=1)  # max_loras when absent, as in vLLM
    max_cpu_loras: int | None = Field(default=None, ge=1)  # all when absent
    #: slots of reserved memory, or blocks of the KV cache, of which an adapter takes what it needs
    #: (S-LoRA's unified paging) ...
    memory: Literal["slots", "paged"] = "slots"
    #: ... and gives them back as soon as nobody runs with it or waits for it, or when room is
    #: needed: before idle prefix blocks, or after them
    evict: Literal["at_once", "adapters", "prefixes"] = "prefixes"
    link: str | None = None  # from the host; the device's own when absent
    far_link: str | None = None  # from a disk or a store elsewhere to the host
    #: beside steps, from the moment a request is sent (S-LoRA), or in the step that needs it (vLLM)
    load: Literal["beside", "in_step"] = "beside"
    wait: Literal["apart", "in_order"] = "apart"  # whether others overtake who waits for an adapter
    kernel: Literal["grouped", "gathered"] = "grouped"  # weights read once a step, or by each token
    #: denoising begins with the model alone, where the adapter is there within so many steps
    early_steps: int = Field(default=0, ge=0)
    padded: bool = True  # kernels compute every adapter at the largest rank

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data):
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("ranks"), int):
            data["ranks"] = (data["ranks"],)
        if isinstance(data.get("modules"), str):
            data["modules"] = (data["modules"],)
        return data

    @model_validator(mode="after")
    def _sound(self) -> Adapters:
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError("ranks are at least 1")
        if not self.modules:
            raise ValueError("adapters change at least one of attention and ffn")
        if self.memory == "paged" and self.slots is not None:
            raise ValueError("slots are of reserved memory; with memory: paged there are none")
        if self.memory == "slots" and "evict" in self.model_fields_set:
            raise ValueError("evict says which KV blocks adapters leave (memory: paged)")
        if self.n_slots < self.max_loras:
            raise ValueError(
                f"{self.slots} slots cannot hold the {self.max_loras} adapters of a batch "
                f"(max_loras: {self.slots})"
            )
        if (self.max_cpu_loras is None) != (self.far_link is None):
            raise ValueError("max_cpu_loras and far_link belong together: what comes from where")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.n_slots:
            raise ValueError(f"max_cpu_loras is at least the number of slots, {self.n_slots}")
        return self

    @property
    def n_slots(self) -> int:
        """Adapters that a replica holds."""
        return self.slots or self.max_loras
