"""Which part of a model is kept and computed in which number format."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.spec.deployment import Pool
from forerun.spec.dtype import ACTIVATION, WEIGHT_BYTES
from forerun.spec.model import Model

PLAIN = ("bf16", "fp16", "fp32", "tf32", "fp64")
#: parts engines leave unquantised whatever the checkpoint's method
ALWAYS_KEPT = frozenset({"embedding", "lm_head", "router"})
#: names that checkpoints use for parts
PART_OF = {
    "embedding": "embedding", "embed_tokens": "embedding", "lm_head": "lm_head",
    "router": "router", "gate": "router", "mlp.gate": "router", "attention": "attention",
    "self_attn": "attention", "attn": "attention", "mlp": "ffn", "ffn": "ffn", "dense": "ffn",
    "shared_experts": "shared", "shared_expert": "shared", "shared": "shared",
    "experts": "experts", "indexer": "indexer", "linear_attn": "linear", "mamba": "linear",
    "linear": "linear", "norm": "norm", "norms": "norm", "vision": "vision", "visual": "vision",
    "vision_tower": "vision", "mtp": "mtp",
}  # fmt: skip


@dataclass(frozen=True)
class Formats:
    """Formats by part of the model."""

    base: str  # of what is not quantised, and of activations between operators
    weights: str
    kv: str
    kept: frozenset[str]
    by_part: tuple[tuple[str, str], ...] = ()  # parts stored in a format of their own
    assumed: tuple[str, ...] = ()

    def of(self, part: str) -> str:
        """The format the weights of a part are stored in."""
        for name, dtype in self.by_part:
            if name == part:
                return dtype
        return self.base if part in self.kept else self.weights

    def in_bytes(self, part: str) -> float:
        """Bytes an element of the input of a product in this part takes."""
        return WEIGHT_BYTES[ACTIVATION.get(self.of(part), self.base)]

    @property
    def act_bytes(self) -> float:
        return WEIGHT_BYTES[self.base]

    @property
    def kv_bytes(self) -> float:
        return WEIGHT_BYTES[self.kv]


def formats(model: Model, pool: Pool) -> Formats:
    """The formats a pool runs a model in: the pool's wish, else the checkpoint's own."""
    stored = model.quantization
    base = model.dtype if model.dtype in PLAIN else "bf16"
    assumed: list[str] = []
    kept = set(ALWAYS_KEPT)
    by_part: dict[str, str] = {}
    if pool.dtype in PLAIN:
        base = weights = pool.dtype
    elif pool.dtype is not None and (stored is None or stored.weights != pool.dtype):
        weights = pool.dtype
        assumed.append(
            f"weights are {pool.dtype} in every linear layer; embedding, LM head and router "
            f"stay {base}"
        )
    elif stored is not None:
        weights = stored.weights
        for name in stored.kept:
            part = PART_OF.get(name)
            if part:
                kept.add(part)
            else:
                assumed.append(
                    f"the checkpoint keeps {name!r} unquantised; Forerun prices no part of that "
                    f"name and counts it as {weights}"
                )
        for name, dtype in stored.by_part:
            by_part[PART_OF.get(name, name)] = dtype
    else:
        weights = base
    kv = pool.kv_dtype or (stored.kv if stored and stored.kv else None) or base
    return Formats(base=base, weights=weights, kv=kv, kept=frozenset(kept), assumed=tuple(assumed))
