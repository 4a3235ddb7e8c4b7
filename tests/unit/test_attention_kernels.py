"""What is published of engines' attention kernels, and what follows from it, by hand."""

import numpy as np
import pytest

from forerun.cost.chosen import starting
from forerun.cost.families import _kernels as kernels
from forerun.cost.families import family, family_of_op
from forerun.cost.families._decode import decode_of
from forerun.cost.families._prefill import before, prefill_of
from forerun.cost.families._starts import started
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet


def seconds_of(op: str, device: str = "h100-sxm", **columns: object) -> float:
    """One row by the physics of its family, before any fit."""
    one = family_of_op(op)
    assert one is not None
    x = rows(1, op=op, device=device, head_dim=128, **columns).filled(family(one).DEFAULTS)
    s = sheet(x)
    return float(family(one).physics(x, s, starting(x, s, family(one)))[0])


#: what is read and written for a token of 32 heads of 128 and 8 of keys and of values: queries,
#: then keys and values
BEFORE = {
    ("trtllm", "bf16", "bf16"): (32 * 128) * (2 + 2) + (8 * 256) * (2 + 2),
    ("trtllm", "bf16", "fp8"): (32 * 128) * (2 + 2) + (8 * 256) * (2 + 1),
    ("trtllm", "fp8", "fp8"): (32 * 128) * (2 + 1) + (8 * 256) * (2 + 1),
    ("vllm", "bf16", "bf16"): (8 * 256) * (2 + 2),
    ("vllm", "bf16", "fp8"): (32 * 128) * (2 + 1) + (8 * 256) * (2 + 1),
    ("sglang", "bf16", "bf16"): (8 * 256) * (2 + 2),
    ("infersim", "bf16", "bf16"): 0,
}


@pytest.mark.parametrize(("asked", "moved"), BEFORE.items())
def test_an_engine_writes_the_cache_before_it_attends(asked, moved):
    """H100: 3.35 TB/s, 0.85 of them; each kernel starts in 2.5 us."""
    engine, dtype, kv = asked
    x, s, c = of_prefill(runtime=engine, batch=3, isl=1000, dtype=dtype, kv_dtype=kv)
    took = before(prefill_of(x), x, s, c)[0]
    assert took == pytest.approx(3 * 1000 * moved / (3.35e12 * 0.85), rel=1e-9, abs=1e-15)
    assert c["launch_s"][0] == pytest.approx((5 if moved else 4) * 2.5e-6)


def of_prefill(device: str = "h100-sxm", heads: int = 32, **columns: object):
    """(row, its sheet, coefficients before any fit) of attention with 8 heads of keys."""
    op = "attention_prefill"
    one = dict(n_heads=heads, n_kv_heads=8, head_dim=128) | columns
    x = rows(1, op=op, device=device, **one).filled(family(op).DEFAULTS)
    s = sheet(x)
    return x, s, starting(x, s, family(op))


def test_attention_without_a_cache_writes_none():
    x, s, c = of_prefill(runtime="trtllm", isl=1000)
    assert before(prefill_of(x), x, s, c)[0] == 0.0
    assert c["launch_s"][0] == pytest.approx(4 * 2.5e-6)


def test_what_was_timed_on_intel_gpus_is_attention_alone():
    """Call by call: two of 30 us, and no cache is written."""
    x, s, c = of_prefill("arc-pro-b60", runtime="vllm", isl=1000, kv_dtype="bf16")
    assert before(prefill_of(x), x, s, c)[0] == 0.0
    assert c["launch_s"][0] == pytest.approx(2 * 30e-6)


def test_the_host_of_an_engine_works_ahead_of_a_busy_device():
    """An empty call takes 60 us, 15 of them the device's own."""
    x = rows(3, device="h100-sxm", runtime=np.array(["vllm", "vllm", "torch"], dtype=object))
    busy = np.array([40e-6, 100e-6, 100e-6])
    took = started(60e-6, busy, 15e-6, sheet(x))
    assert took == pytest.approx([60e-6, 115e-6, 160e-6])


@pytest.mark.parametrize(
    ("engine", "device", "dtype", "first"),
    [
        ("vllm", "h100-sxm", "fp8_block", 60e-6),  # a layer that Python walks through
        ("trtllm", "h100-sxm", "fp8_block", 2.5e-6 + 4e-6),  # quantised in a graph
        ("vllm", "h100-sxm", "bf16", 2.5e-6), ("torch", "t4", "fp16", 30e-6),
        ("vllm", "arc-pro-b60", "bf16", 30e-6),
    ],
)  # fmt: skip
def test_a_product_timed_call_by_call_starts_with_the_host(engine, device, dtype, first):
    x = rows(1, op="gemm", device=device, runtime=engine, dtype=dtype, m=1, n=128, k=128)
    x = x.filled(family("gemm").DEFAULTS)
    assert starting(x, sheet(x), family("gemm"))["launch_s"][0] == pytest.approx(first)


KERNELS = [  # engine, device, widths of a head, bytes of the cache: keys a tile, rows, packed
    ("trtllm", "h100-sxm", 64, 2, 256, 64, 0), ("trtllm", "h100-sxm", 128, 2, 128, 64, 0),
    ("trtllm", "h100-sxm", 128, 1, 256, 64, 0), ("trtllm", "h100-sxm", 256, 1, 128, 64, 0),
    ("trtllm", "l40s", 64, 2, 128, 128, 0), ("trtllm", "l40s", 128, 2, 128, 64, 0),
    ("vllm", "h100-sxm", 64, 2, 128, 192, 1), ("vllm", "h100-sxm", 256, 2, 64, 128, 1),
    ("vllm", "a100-sxm-80gb", 128, 2, 128, 64, 0), ("vllm", "l40s", 64, 2, 256, 64, 0),
    ("vllm", "arc-pro-b60", 64, 2, 32, 128, 0), ("vllm", "arc-pro-b60", 128, 2, 32, 256, 0),
    ("", "h100-sxm", 64, 2, 64, None, None), ("trtllm", "b200", 128, 2, 128, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "device", "head", "kv", "keys", "tall", "packed"), KERNELS)
def test_kernels_have_the_tiles_of_their_source(engine, device, head, kv, keys, tall, packed):
    s = sheet(rows(1, device=device, runtime=engine))
    width = np.array([2.0 * head])
    assert kernels.key_tile(width, np.array([float(kv)]), s) == keys
    got = kernels.query_tile(width, s)
    assert [None if np.isnan(v[0]) else v[0] for v in got] == [tall, packed]


@pytest.mark.parametrize(
    ("device", "head", "share"),
    [
        ("a100-sxm-80gb", 128, 1.0), ("l40s", 128, 2 * 64 * 128 / (64 + 128) / 110),
        ("l40s", 64, 2 * 64 * 256 / (64 + 256) / 110), ("h100-sxm", 128, 1.0),
    ],
)  # fmt: skip
def test_blocks_of_64_rows_alone_starve_the_matrix_unit(device, head, share):
    s = sheet(rows(1, device=device, runtime="vllm"))
    got = kernels.tile_share(np.array([2.0 * head]), np.array([2.0]), s)
    assert got == pytest.approx(share)


@pytest.mark.parametrize(
    ("head", "each", "whole"),
    [(64, 2, 64), (72, 2, 128), (80, 2, 128), (192, 2, 192), (192, 1, 256), (64, 1, 64)],
)
def test_heads_are_padded_to_lines_of_128_bytes(head, each, whole):
    s = sheet(rows(2, device="h100-sxm", runtime=np.array(["trtllm", "vllm"], dtype=object)))
    got = kernels.padded(np.full(2, float(head)), np.full(2, float(each)), s)
    assert list(got) == [whole, head]


def test_a_block_multiplies_a_whole_tile_of_keys():
    """TensorRT-LLM, heads of 64 on H100, tiles of 256 keys: 64 tokens and then 128 of a prompt take
    as long a block, of which there are twice as many; 2 * 256 of flop a pair, and the softmax."""
    busy = []
    for isl in (64, 128):
        x, s, c = of_prefill(runtime="trtllm", batch=99, isl=isl, head_dim=64)
        c |= {"stream": np.array([1e9]), "block_s": np.array([0.0])}
        busy.append(prefill_of(x).seconds(s, c)[0])
    assert busy[1] == pytest.approx(2 * busy[0], rel=1e-9)
    rate = 989.4e12 * float(c["compute"][0]) * 0.5 ** float(c["narrow"][0])
    pair = 2 * 128 / rate + 16 / 66.9e12
    waves = 99 * 32 / 132
    assert busy[0] == pytest.approx(waves * 64 * 256 * pair * 132, rel=2e-3)


def test_heads_that_run_one_after_the_other_read_their_keys_again():
    """A100, 108 SMs: of 216 decoders two halves of a head's run, so each of four heads reads its
    keys alone: 216 * 4,000 * 512 bytes, which 40 MiB of cache do not hold.  Of 27 decoders four
    heads run at once, and three of them find their keys in the cache, at 0.3 of the price."""
    for n, times in ((216, 3.0), (27, 3 * 0.3)):
        x, s, _ = of_prefill("a100-sxm-80gb", runtime="vllm", isl=1, n_decode=n, past_decode=4000)
        again = prefill_of(x)._read_again(np.zeros(1), s)[0]
        assert again == pytest.approx(times * 8 * n * 4000 * 512, rel=2e-3)


def test_a_cache_in_8_bits_is_multiplied_so_by_tensorrt_llm():
    """A long prompt on H100: 1979 instead of 989 Tflop/s, and the softmax beside it."""
    took = {}
    for kv in ("bf16", "fp8"):
        x, s, c = of_prefill(runtime="trtllm", isl=60_000, kv_dtype=kv)
        took[kv] = prefill_of(x).seconds(s, c)[0]
    rate = float(c["compute"][0])
    pair = {f: 512 / (p * rate) + 16 / 66.9e12 for f, p in (("bf16", 989.4e12), ("fp8", 1979e12))}
    assert took["fp8"] / took["bf16"] == pytest.approx(pair["fp8"] / pair["bf16"], rel=0.01)
    for device, engine in (("h100-sxm", "vllm"), ("a100-sxm-80gb", "trtllm")):
        x, s, c = of_prefill(device, runtime=engine, isl=60_000, kv_dtype="fp8")
        y, _, _ = of_prefill(device, runtime=engine, isl=60_000, kv_dtype="bf16")
        narrow, wide = (prefill_of(z).seconds(s, c)[0] for z in (x, y))
        assert narrow == pytest.approx(wide, rel=0.01)


#: requests, keys, window: parts of each of 8 kv heads' caches, in 16 bits and in 8
PARTS = [
    (1, 100, 0, 1, 1), (1, 256, 0, 2, 2), (1, 4096, 0, 16, 16),  # sqrt(8 * 32) of 32
    (128, 4096, 0, 8 * 132 / 1024, 8 * 132 / 1024), (1, 4096, 128, 16, 1),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "past", "window", "wide", "narrow"), PARTS)
def test_tensorrt_llm_splits_caches_by_its_own_rule(batch, past, window, wide, narrow):
    for kv, expected in (("bf16", wide), ("fp8", narrow)):
        one = dict(n_heads=32, n_kv_heads=8, batch=batch, past=past, window=window, kv_dtype=kv)
        x = rows(1, op="attention_decode", device="h100-sxm", runtime="trtllm", head_dim=128, **one)
        x = x.filled(family("attention_decode").DEFAULTS)
        assert decode_of(x).parts(sheet(x))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("engine", "device", "kv_heads", "kv", "held"),
    [
        ("vllm", "arc-pro-b60", 8, 2, 8), ("vllm", "a100-sxm-80gb", 8, 2, 2),
        ("vllm", "l40s", 8, 2, 1), ("vllm", "h100-sxm", 8, 2, 1), ("trtllm", "h100-sxm", 8, 2, 1),
        ("trtllm", "h100-sxm", 8, 1, 2), ("trtllm", "h100-sxm", 32, 2, 2),
    ],
)  # fmt: skip
def test_blocks_of_a_decode_step_start_beside_each_other(engine, device, kv_heads, kv, held):
    s = sheet(rows(1, device=device, runtime=engine))
    shares = kernels.shares_keys(np.array([32.0]), np.array([float(kv_heads)]), s)
    assert kernels.decode_at_once(shares, np.array([float(kv)]), s) == held


@pytest.mark.parametrize(
    ("device", "engine", "heads", "slower"),
    [
        ("h100-sxm", "trtllm", 32, True), ("h100-sxm", "trtllm", 31, False),
        ("a100-sxm-80gb", "trtllm", 32, True), ("h100-sxm", "vllm", 32, False),
        ("b200", "trtllm", 32, False),
    ],
)  # fmt: skip
def test_beyond_32_heads_of_a_group_each_reads_its_keys_alone(device, engine, heads, slower):
    def took(n: int) -> float:
        size = dict(n_heads=n, n_kv_heads=1, batch=256, past=4000)
        return seconds_of("attention_decode", device, runtime=engine, **size)

    more = took(heads + 1) - took(heads)
    # keys of 256 requests at 0.3 of a first reading each time they are read again
    again = 256 * 4000 * 256 * 2 * 0.3 * heads / 8e12  # no memory here is faster
    assert more >= again if slower else more < 0.05 * took(heads)


def test_a_cache_in_8_bits_is_widened_where_no_matrix_unit_multiplies_it():
    """Arc Pro B60, 12.28 Tflop/s beside its matrix units, 16 rows of queries to a conversion: a
    long prompt's pair of 256 elements takes 8 * 256 / 16 operations more, two to a multiply-add."""

    def ratio(device: str, engine: str) -> float:
        took = (
            prefill_of(x).seconds(s, c)[0]
            for x, s, c in (
                of_prefill(device, runtime=engine, isl=60_000, kv_dtype=kv)
                for kv in ("fp8", "bf16")
            )
        )
        return next(took) / next(took)

    _, _, start = of_prefill("arc-pro-b60", isl=60_000)
    alone = 2 * 256 / (98.3e12 * float(start["compute"][0])) + 16 / 12.28e12
    more = 8 * 256 / 16 / (12.28e12 / 2)
    assert ratio("arc-pro-b60", "vllm") == pytest.approx(1 + more / alone, rel=0.02)
    assert ratio("h100-sxm", "vllm") < 1.02  # has such units
    assert ratio("a100-sxm-80gb", "vllm") > 1.2
    assert ratio("a100-sxm-80gb", "trtllm") < 1.02  # attends before it narrows


def test_intel_s_kernels_leave_a_window_behind_and_multiply_all_after_it():
    """Of 10,000 tokens one sees 128 and has 5,000 after it in the middle: about as long as the
    whole, of which it sees 5,000."""
    size = dict(n_heads=32, n_kv_heads=8, isl=10_000)

    def share(device: str, engine: str) -> float:
        took = (
            seconds_of("attention_prefill", device, runtime=engine, window=w, **size)
            for w in (128, 0)
        )
        return next(took) / next(took)

    assert share("arc-pro-b60", "vllm") == pytest.approx(1.03, abs=0.03)
    assert share("arc-pro-b60", "") < 0.15
    assert share("h100-sxm", "vllm") < 0.15
