"""Attention beyond its product: the pass before a prompt's, the whole waves of a decode's."""

import numpy as np
import pytest

from forerun.cost.families import attention_decode, attention_prefill
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet

HEADS = dict(n_heads=32.0, n_kv_heads=8.0, head_dim=128.0)


def _coefs(family, **given):
    return {c.name: c.start for c in family.COEFS} | given


def _prompt(runtime, isl, copies=1.0):
    x = rows(1, op="attention_prefill", device="h100-sxm", runtime=runtime, isl=isl, batch=1.0,
             past=0.0, window=0.0, causal=1.0, n_decode=0.0, past_decode=0.0, dtype="bf16",
             kv_dtype="bf16", **HEADS)  # fmt: skip
    c = _coefs(attention_prefill, stream=1.0, copies=copies)
    return float(attention_prefill.physics(x, sheet(x), c)[0])


@pytest.mark.parametrize("copies", [0.5, 1.0, 2.0])
def test_a_prompt_s_queries_keys_and_values_are_read_and_written_before_the_product(copies):
    alone = _prompt("llmservingsim", 8192.0)  # a tool that times the product alone
    # 8192 tokens x (32 + 2 * 8) heads x 128 x (2 + 2) bytes = 201 MB at 3.35 TB/s: 60 us a pass
    once = 8192 * (32 + 2 * 8) * 128 * (2 + 2) / 3.35e12
    assert _prompt("vllm 0.24.0", 8192.0, copies) - alone == pytest.approx(copies * once, rel=1e-6)


def _decoders(n):
    """A block a request, which takes a millisecond, on 132 multiprocessors."""
    x = rows(1, op="attention_decode", device="h100-sxm", runtime="vllm", batch=float(n), past=1.0,
             window=0.0, dtype="bf16", kv_dtype="bf16", n_heads=1.0, n_kv_heads=1.0,
             head_dim=64.0)  # fmt: skip
    c = _coefs(attention_decode, block_s=1e-3, launch_s=1e-9, sharp=10.0)
    return float(attention_decode.physics(x, sheet(x), c)[0])


def test_a_wave_that_is_not_full_takes_as_long_as_one_that_is():
    within = [_decoders(n) for n in (1, 66, 132)]
    assert max(within) < 20e-6  # the first is part of the start
    assert [_decoders(n) for n in (133, 264)] == pytest.approx([1e-3, 1e-3], rel=0.01)
    assert _decoders(265) == pytest.approx(2e-3, rel=0.01)


def test_more_decoders_never_take_less():
    times = [_decoders(n) for n in range(1, 600, 7)]
    assert (np.diff(times) >= 0).all()
