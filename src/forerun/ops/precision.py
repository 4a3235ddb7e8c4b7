"""Which part of a model is kept and computed in which number format."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.spec.deployment import KvPrecision, Pool
from forerun.spec.dtype import ACTIVATION, WEIGHT_BYTES, bits
from forerun.spec.model import Mla, Model
from forerun.spec.params import PARTS

PLAIN = ("bf16", "fp16", "fp32", "tf32", "fp64")
#: parts no method quantises (names as in spec.params.PARTS)
NEVER = frozenset({"embedding", "norms", "other", "router", "vision", "audio"})
#: parts that stay when a pool asks for a format the checkpoint does not have: engines that quantise
#: on loading leave the LM head too
ON_LOADING = NEVER | {"lm_head"}
#: and further ones in NVFP4 of models with latent attention: NVIDIA's checkpoints leave all of it
#: (in version 2 all but the output projection; cards of nvidia/DeepSeek-R1-FP4 and -FP4-v2).  That
#: what picks its keys stays too is an estimate
LATENT = frozenset({"attention", "indexer"})


@dataclass(frozen=True)
class Formats:
    """Formats by part of the model."""

    base: str  # of what is not quantised, and of activations between operators
    weights: str
    kv: str
    kept: frozenset[str]
    old: KvPrecision | None = None  # of cached tokens that are not among the last
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
    kept = set(NEVER)
    by_part: dict[str, str] = {}
    if pool.dtype in PLAIN:
        base = weights = pool.dtype
        if stored is not None:
            assumed.append(f"the checkpoint's {stored.weights} weights are expanded to {weights}")
    elif pool.dtype is not None and (stored is None or stored.weights != pool.dtype):
        weights, kept = pool.dtype, set(ON_LOADING)
        if stored is not None and bits(stored.weights) == bits(weights):
            # a copy of what was as narrow already
            kept |= set(stored.kept)
            by_part = {p: d for p, d in stored.by_part if d != stored.weights}
            assumed.append(f"weights are {weights} where the checkpoint's are {stored.weights}")
        else:
            where = "every linear layer"
            if weights == "nvfp4" and any(isinstance(run.mixer, Mla) for run in model.layers):
                kept |= LATENT
                where += " but attention's"
            assumed.append(
                f"weights are {weights} in {where}; embedding, LM head and router stay {base}"
            )
    elif stored is not None:
        weights = stored.weights
        by_part = dict(stored.by_part)
        kept |= set(stored.kept)
        assumed += [
            f"the checkpoint keeps {name!r} unquantised; no part has that name, so it counts as "
            f"{weights}"
            for name in stored.kept
            if name not in PARTS
        ]
    else:
        weights = base
    kv = pool.kv_dtype or (stored.kv if stored and stored.kv else None) or base
    return Formats(
        base=base,
        weights=weights,
        kv=kv,
        kept=frozenset(kept),
        old=pool.engine.kv_precision,
        by_part=tuple(by_part.items()),
        assumed=tuple(assumed),
    )
