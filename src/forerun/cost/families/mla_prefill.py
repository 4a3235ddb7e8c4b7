"""Latent attention of new tokens over themselves and a cached past.

On expanded keys and values, a kv head for every query head:

    time = launch + blocks of queries over keys as in `_attention`
           + 4 T (copies N (2 head_dim + v_head_dim) + kv_lora_rank + rope_dim) / rate, putting
             queries, keys and values together and keeping the latents
           + expanding the latents of the past: 2 past kv_lora_rank N (H_nope + H_v) flop

On the latents themselves (W = 2 kv_lora_rank + rope_dim), as engines do with short chunks:

    time = launch + 2 N W (pairs + 32 q) / (peak * absorbed * min(1, B ceil(q N / 64) / n_SM))
           + block_s + latents / (rate * stream) + 4 T (N W + kv_lora_rank + rope_dim) / rate

Products around it are added where `hidden` is given (see `_mla`).
"""

from __future__ import annotations

import numpy as np

from forerun.cost.families import Coef, Coefs
from forerun.cost.families._attention import kv_bytes
from forerun.cost.families._codes import code
from forerun.cost.families._mla import (
    BLOCK_COEFS,
    PAGE,
    SHARP,
    TILE,
    around_start,
    latent_bytes,
    latent_of,
    of_kernel,
)
from forerun.cost.families._overlap import powers
from forerun.cost.families._prefill import PREFILL_COEFS, Prefill, prefill_features
from forerun.cost.kept import kept
from forerun.cost.rows import Rows
from forerun.cost.sheet import Sheet
from forerun.ops.counts import Counts

OPS = ("mla_prefill",)
NEEDS = ("isl", "n_heads")
DEFAULTS: dict[str, float | str] = {
    "batch": 1.0, "past": 0.0, "kv_lora_rank": 512.0, "rope_dim": 64.0, "head_dim": 192.0,
    "v_head_dim": 128.0, "window": 0.0, "dtype": "bf16", "kv_dtype": "", "impl": "",
}  # fmt: skip
KEYS = ("dtype", "kv_dtype")
COEFS = (
    *PREFILL_COEFS,
    Coef("copies", 0.5, 0.02, 6.0, "passes over queries, keys and values before the kernel"),
    Coef("absorbed", 0.6, 0.05, 1.1, "share of the matrix peak on latents themselves"),
    *BLOCK_COEFS,
)
#: new tokens up to which vLLM calls its decode kernel on Hopper: FlashAttention's on 16 bits,
#: FlashMLA's on 8 (kernels named in AIConfigurator's table of vLLM 0.24); one token anywhere
SHORT, SHORT_8 = 512.0, 128.0


@kept
def is_absorbed(x: Rows, s: Sheet) -> np.ndarray:
    """Rows that run on latents, bool [N]: where vLLM names the kernel, as the name says (those of
    its decode step end in MLA); else as the engine chooses.

    One token without a past is no decode step, and other engines expand it too.
    """
    named, new, vllm = x.words("impl"), x.get("isl"), s.by("vllm")
    on_latents = np.array(["mla" in word for word in named], dtype=bool)
    hopper = vllm & s.on("hopper")
    most = np.where(hopper, np.where(kv_bytes(x) < 2.0, SHORT_8, SHORT), 1.0)
    chosen = (new <= most) & (hopper | (x.get("past", 0.0) > 0))
    return np.where(vllm & (named != ""), on_latents, chosen)


@kept
def prefill_of(x: Rows) -> Prefill:
    """The kernel, on keys and values of 16 bits expanded before it."""
    a, two, none = latent_of(x), np.full(x.n, 2.0), np.zeros(x.n)
    return Prefill(
        x.get("batch", 1.0), x.get("isl"), x.get("past", 0.0), a.heads, a.heads, a.qk + a.v, a.v,
        x.get("window", 0.0), np.ones(x.n), two, two, none, none,
    )  # fmt: skip


@kept
def _expanded(x: Rows, p: Prefill) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(flop, latents read, keys and values written, bytes) of expanding the past."""
    a = latent_of(x)
    held = p.batch * np.where(p.window > 0, np.minimum(p.past, p.window), p.past)
    flop = 2.0 * held * a.rank * a.heads * (a.nope + a.v)
    return flop, held * latent_bytes(a, x), p.cache_bytes


def counts(x: Rows) -> Counts:
    """Of the expanded form, whose arithmetic is the least."""
    p = prefill_of(x)
    around = latent_of(x).counts(p.batch * p.new, absorbed=False)
    flop, read, written = _expanded(x, p)
    return Counts(
        flop=p.flop + flop + around.flop, weight_bytes=around.weight_bytes,
        activation_bytes=p.activation_bytes + 2 * written + around.activation_bytes, kv_bytes=read,
    )  # fmt: skip


def start(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Before any measurement: products run as they do in GEMM, softmax comes on top."""
    return {
        "compute": 1.1 * s.gemm, "stream": s.gather, "launch_s": 4.0 * s.launch_s,
        "project": 0.8 * s.gemm, "around_s": around_start(s),
    }  # fmt: skip


def physics(x: Rows, s: Sheet, c: Coefs) -> np.ndarray:
    """Seconds of each row, float64 [N]."""
    p, a = prefill_of(x), latent_of(x)
    kernel, tokens, on_latents = of_kernel(s, a.whole), p.batch * p.new, is_absorbed(x, s)
    busy = np.where(on_latents, _absorbed(x, p, kernel, c), _on_expanded(x, p, kernel, c))
    around = [a.seconds(tokens, absorbed, s, c) for absorbed in (True, False)]
    return c["launch_s"] + busy + np.where(on_latents, *around)


def _on_expanded(x: Rows, p: Prefill, s: Sheet, c: Coefs) -> np.ndarray:
    a, rate = latent_of(x), s.hbm_bytes_per_s * s.gather
    together = c["copies"] * a.heads * (2 * a.qk + a.v) + a.rank + a.rope
    flop, read, written = _expanded(x, p)
    compute = flop / (s.wide_flop_per_s * c["project"])
    expand = powers((compute, (read + written) / rate), SHARP)
    return p.seconds(s, c) + 4.0 * p.batch * p.new * together / rate + expand


def _absorbed(x: Rows, p: Prefill, s: Sheet, c: Coefs) -> np.ndarray:
    a, rate = latent_of(x), s.hbm_bytes_per_s * s.gather
    width = 2 * a.rank + a.rope
    tokens = p.batch * p.new
    blocks = p.batch * np.maximum(1.0, p.new * a.heads / TILE)
    split = blocks * np.maximum(1.0, (p.past + p.new) / PAGE)
    filled = np.where(s.is_gpu > 0, np.minimum(1.0, split / s.n_sm), 1.0)
    flop = 2.0 * width * a.heads * (p.pairs + PAGE / 2 * tokens)
    compute = flop / (s.wide_flop_per_s * c["absorbed"] * filled)
    kept = p.batch * (p.past + p.new) * latent_bytes(a, x) / (s.hbm_bytes_per_s * c["stream"])
    # queries and results of all heads, written once and read once
    together = a.heads * width + a.rank + a.rope
    return compute + c["block_s"] + kept + 4.0 * tokens * together / rate


def features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Dimensionless: those of prefill attention, and how much of a block is attention."""
    p, a = prefill_of(x), latent_of(x)
    around = a.counts(p.batch * p.new, absorbed=False)
    products = around.hbm_bytes / s.hbm_bytes_per_s + around.flop / s.flop_per_s
    kernel = p.activation_bytes / s.hbm_bytes_per_s + p.flop / s.wide_flop_per_s
    return {
        **prefill_features(p, s),
        "narrow_kv": kv_bytes(x),
        "around": products / (products + kernel),
        "whole": a.whole * 1.0,
        "absorbed": is_absorbed(x, s) * 1.0,
    }


def own_features(x: Rows, s: Sheet) -> dict[str, np.ndarray]:
    """Shapes themselves, and the number formats by number; which kernel it is, `absorbed` says."""
    p = prefill_of(x)
    chunks, _ = p.blocks(128.0, False)
    return {
        "batch": np.log2(p.batch), "heads": np.log2(p.heads), "past": np.log2(p.past + 1),
        "work": np.log2(p.flop), "tokens": np.log2(p.batch * p.new),
        "last_wave": chunks / s.n_sm % 1.0, "key": code(x, KEYS),
    }  # fmt: skip
