"""Fine-tuning beside serving: a backlog of tokens for what steps leave."""

from __future__ import annotations

from pydantic import Field

from forerun.spec.base import Spec


class Tuning(Spec):
    """Training of adapters of the served model on the replicas that serve it (FlexLLM).

    Each replica has `tokens` to train on, in sequences of `sequence` tokens; the engine's policy
    `tune` says how many a step may take.  They are computed forward beside the step's own tokens
    and backward by themselves.  Activations of a sequence stay in memory between the two.  It ends
    with the last request.
    Source: FlexLLM, arXiv 2402.18789.
    """

    tokens: int = Field(ge=1, le=10**15)  # a replica's backlog
    sequence: int = Field(default=2048, ge=1)
    grain: int = Field(default=32, ge=1)  # a step takes a multiple of so many
    #: flop backward over flop forward: 2 where all weights learn, 1 where only adapters do, since
    #: no gradients of the frozen weights are wanted
    backward: float = Field(default=2.0, ge=0, le=4)
    #: of a token and layer, over the hidden size: 34 with 16-bit activations and attention that is
    #: computed again (Korthikanti et al., arXiv 2205.05198, eq. 2)
    activation_bytes: float = Field(default=34.0, ge=0)

    def kept_bytes(self, hidden: int, n_layers: int) -> float:
        """Activations of a sequence, all devices of a replica together."""
        return self.sequence * n_layers * hidden * self.activation_bytes
