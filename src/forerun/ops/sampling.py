"""Choosing the next token from the logits of the sequences that are sampled."""

from __future__ import annotations

from dataclasses import dataclass

from forerun.ops.counts import Array, Counts


def sampling(n_seqs: Array, *, vocab: int, passes: int = 3) -> Counts:
    """Flop and bytes of softmax and an arg-max style pick over fp32 logits.

        bytes = S * V * (2 + 4) + passes * 2 * S * V * 4   # bf16 to fp32, then read and write
        flop  = 5 * S * V                                  # subtract, exp, sum, divide, compare

    Three passes are temperature, softmax and the pick (vLLM's Gumbel-like arg-max); top-k and
    top-p, which sort, are left out.
    """
    per = vocab * (6.0 + passes * 8.0)
    return Counts(flop=5.0 * n_seqs * vocab, activation_bytes=1.0 * n_seqs * per)


@dataclass(frozen=True)
class Sampling:
    """Over a whole vocabulary."""

    vocab: int
    passes: int = 3
    params: float = 0.0
    stored_bytes: float = 0.0

    @property
    def kernels(self) -> int:
        return self.passes + 1

    def counts(self, n_seqs: Array) -> Counts:
        return sampling(n_seqs, vocab=self.vocab, passes=self.passes)
