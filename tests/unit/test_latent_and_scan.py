"""What the physics of latent attention and of scans says of known cases."""

import numpy as np
import pytest

from forerun.cost.chosen import starting
from forerun.cost.families import family
from forerun.cost.operators import predict
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet

# ------------------------------------------------------------------- latent attention and scans


def mla(op: str, **columns) -> float:
    """Seconds of one row on an H100, by the closed form before any measurement."""
    module = family(op)
    x = rows(1, op=op, device="h100-sxm", **columns).filled(module.DEFAULTS)
    s = sheet(x)
    return float(module.physics(x, s, starting(x, s, module))[0])


def test_a_long_latent_cache_is_read_at_the_rate_of_memory():
    B, keys = 64, 100_000
    least = B * keys * 576 * 2 / 3.35e12
    assert 0.8 < least / mla("mla_decode", batch=B, past=keys, n_heads=16) < 1.0


def test_a_latent_cache_in_8_bits_takes_half_as_long():
    at = dict(batch=64, past=100_000, n_heads=16)
    ratio = mla("mla_decode", kv_dtype="fp8", **at) / mla("mla_decode", kv_dtype="bf16", **at)
    assert 0.48 < ratio < 0.6


def test_all_heads_of_latent_attention_read_the_cache_once():
    at = dict(batch=32, past=50_000)
    assert mla("mla_decode", n_heads=32, **at) < 1.1 * mla("mla_decode", n_heads=1, **at)


def test_a_block_takes_its_kernel_and_its_products():
    at = dict(batch=16, past=4096, n_heads=128)
    kernel = mla("mla_decode", **at)
    block = mla("mla_decode", hidden=7168, q_lora_rank=1536, **at)
    weights = 2 * (7168 * 2112 + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168) / 3.35e12
    assert block > kernel + weights
    narrow = mla("mla_decode", hidden=7168, q_lora_rank=1536, dtype="fp8_block", **at)
    assert kernel < narrow < block


def test_a_chunk_expands_the_latents_of_its_past():
    at = dict(isl=512, n_heads=128)
    expand = 2 * 30_000 * 512 * 128 * 256 / 989e12
    pairs = 2 * 128 * 320 * 512 * 30_000 / 989e12
    assert mla("mla_prefill", past=30_000, **at) > mla("mla_prefill", past=0, **at) + expand + pairs


def test_one_token_over_a_long_past_is_no_dearer_than_a_decode_step():
    alone = mla("mla_prefill", isl=1, past=30_000, n_heads=128)
    assert alone < 2 * mla("mla_decode", batch=1, past=30_000, n_heads=128)


def test_short_chunks_run_on_latents_where_the_engine_does_so():
    from forerun.cost.families.mla_prefill import is_absorbed

    asked = (
        ("vllm 0.24.0", 64, 0, "", True), ("vllm 0.24.0", 4096, 0, "", False),
        ("vllm 0.24.0", 64, 0, "flash_attn", False), ("trtllm", 64, 0, "", False),
        ("vllm 0.24.0", 256, 0, "flash_attn_mla", True), ("trtllm", 1, 0, "", False),
        ("trtllm", 1, 500, "", True),
    )  # fmt: skip
    runtime, isl, past, impl, expected = zip(*asked, strict=True)
    x = rows(len(asked), op="mla_prefill", device="h100-sxm", n_heads=16.0,
             runtime=np.array(runtime, dtype=object), isl=np.array(isl, dtype=float),
             past=np.array(past, dtype=float), impl=np.array(impl, dtype=object))  # fmt: skip
    x = x.filled(family("mla_prefill").DEFAULTS)
    assert tuple(is_absorbed(x, sheet(x)).tolist()) == expected


def scan(**columns) -> float:
    module = family("scan")
    given = dict(op="gdn", n_heads=32, n_kv_heads=16, head_dim=128, v_head_dim=128) | columns
    x = rows(1, device="h100-sxm", **given).filled(module.DEFAULTS)
    s = sheet(x)
    return float(module.physics(x, s, starting(x, s, module))[0])


def test_a_step_reads_and_writes_every_state_once():
    states = 2 * 1024 * 32 * 128 * 128 * 4 / 3.35e12
    assert 0.7 < states / scan(batch=1024, isl=1) < 1.0
    assert scan(batch=1024, isl=1, kv_dtype="bf16") < 0.6 * scan(batch=1024, isl=1)


def test_chunks_of_one_head_follow_each_other():
    """One sequence of few heads leaves most of the chip idle, and a longer one does not fill it."""
    one, two = (scan(batch=batch, isl=32_768, n_heads=8) for batch in (1, 2))
    assert two < 1.25 * one
    assert scan(batch=1, isl=65_536, n_heads=8) > 1.9 * one


def test_a_token_that_is_no_prefill_is_a_step():
    assert scan(batch=4, isl=1) == scan(batch=4, isl=1, impl="decode")
    assert scan(batch=4, isl=1) != scan(batch=4, isl=1, impl="prefill")


def test_what_a_scan_counts_is_what_a_layer_counts():
    from forerun.ops.ssm import Scan

    layer = Scan("gdn", 32, 128, 128)
    for impl, tokens, counted in (
        ("decode", 1, layer.decode(7.0, 1.0)), ("prefill", 5000, layer.prefill(5000.0, 0.0)),
    ):  # fmt: skip
        batch = 7 if impl == "decode" else 1
        x = rows(1, op="gdn", device="h100-sxm", batch=batch, isl=tokens, n_heads=32, head_dim=128,
                 n_kv_heads=32, v_head_dim=128, impl=impl)  # fmt: skip
        got = family("scan").counts(x.filled(family("scan").DEFAULTS))
        assert got.flop[0] == pytest.approx(float(counted.flop))
        assert got.kv_bytes[0] == pytest.approx(float(counted.kv_bytes))


def test_a_layer_of_a_model_is_its_convolution_and_its_scan():
    from forerun.catalog import device
    from forerun.cost.calibration import Store
    from forerun.cost.collectives import wires
    from forerun.cost.costs import Costs
    from forerun.ops.ssm import Scan

    on = device("h100-sxm")
    costs = Costs(on, wires(on), store=Store())
    channels = 2 * 16 * 128 + 32 * 128
    whole = Scan("gdn", 32, 128, 128, conv=4, conv_channels=channels)
    at = (np.array([[1.0], [64.0], [512.0]]), np.array([100.0, 9000.0]))
    together = costs.decode(whole, *at)
    convolution = [scan(op="conv1d", batch=n, isl=1, k=4, width=channels) for n in (1, 64, 512)]
    steps = [scan(batch=n, isl=1) for n in (1, 64, 512)]
    assert together[:, 0] == pytest.approx(np.array(convolution) + steps, rel=0.01)
    assert (together[:, 0] == together[:, 1]).all()  # whatever the context
    assert costs.launch(whole) == 0.0  # inside the times already
    chunk = costs.prefill(whole, np.array([[0.0], [4096.0]]), np.array([0.0]))[:, 0]
    alone = scan(batch=1, isl=4096) + scan(op="conv1d", batch=1, isl=4096, k=4, width=channels)
    assert chunk == pytest.approx([0.0, alone], rel=0.01)
    point = costs.point(whole, 64.0, 100.0)
    assert point.time_s == pytest.approx(together[1, 0], rel=0.01)
    assert point.low_s < point.time_s < point.high_s


def test_what_latent_attention_counts_is_what_a_layer_counts():
    from forerun.ops.attention import Attention

    layer = Attention(128, 128, 192, 128, latent_dim=576, latent_v=512, reproject=256)
    x = rows(1, op="mla_decode", batch=8, past=3000, n_heads=128)
    decode = family("mla_decode").counts(x.filled(family("mla_decode").DEFAULTS))
    assert decode.flop[0] == pytest.approx(float(layer.decode(8.0, 3000.0).flop))
    assert decode.hbm_bytes[0] == pytest.approx(
        float(layer.decode(8.0, 3000.0).hbm_bytes), rel=0.02
    )
    x = rows(1, op="mla_prefill", isl=700, past=3000, n_heads=128)
    prefill = family("mla_prefill").counts(x.filled(family("mla_prefill").DEFAULTS))
    assert prefill.flop[0] == pytest.approx(float(layer.prefill(700.0, 3000.0).flop))
    assert prefill.kv_bytes[0] == pytest.approx(float(layer.prefill(700.0, 3000.0).kv_bytes))


def test_a_kernel_and_a_block_are_told_apart_by_the_width_of_the_model():
    x = rows(2, op="mla_decode", device="h100-sxm", batch=8.0, past=1000.0, n_heads=16.0,
             q_lora_rank=1536.0, hidden=np.array([np.nan, 7168.0]))  # fmt: skip
    answers = predict(x)
    assert (answers.refused == "").all()
    assert answers.time_s[1] > 1.3 * answers.time_s[0]
    assert answers.flop[1] > answers.flop[0]


# ---------------------------------------------------------------------------- measured tables


@pytest.mark.parametrize("table", ["gdn", "mamba2", "mla_context_module", "mla_generation_module"])
def test_blocks_and_scans_of_the_tables_are_read(shared_data, table):
    from forerun.measure.tables import read_tables

    folder = shared_data / "aiconfigurator_ops" / "h100_sxm" / "trtllm-1.3.0rc20"
    (read,) = read_tables(folder / f"{table}_perf.parquet")
    name = "scan" if table in ("gdn", "mamba2") else table.replace("_module", "")
    name = {"mla_context": "mla_prefill", "mla_generation": "mla_decode"}.get(name, name)
    module = family(name)
    assert set(read.rows.words("op")) <= set(module.OPS)
    x = read.rows.filled(module.DEFAULTS)
    s = sheet(x)
    close = np.abs(np.log(module.physics(x, s, starting(x, s, module)) / read.time_s))
    assert np.median(close) < np.log(1.5)  # nothing is fitted here


def test_a_whole_block_gives_the_width_of_the_model(shared_data):
    from forerun.measure.tables import read_tables

    folder = shared_data / "aiconfigurator_ops" / "h100_sxm" / "trtllm-1.3.0rc20"
    (block,) = read_tables(folder / "mla_generation_module_perf.parquet")
    (kernel,) = read_tables(folder / "generation_mla_perf.parquet")
    assert (block.rows.get("hidden") == 7168).all()
    assert np.isnan(kernel.rows.get("hidden")).all()
    assert set(block.rows.get("past")) == set(kernel.rows.get("past"))
    assert "fp8_block" in set(block.rows.words("dtype"))
