"""KV whose older tokens are in fewer bits: bytes in memory and read, time to dequantise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.cost.costs import DEQUANTISE
from forerun.cost.memory import memory
from forerun.cost.pick import picking
from forerun.cost.price import costs, price
from forerun.errors import ForerunError, Infeasible
from forerun.ops.attention import Attention
from forerun.ops.lower import lower
from forerun.sim.prepare import prepare
from forerun.spec.deployment import Deployment, Engine, KvPrecision, Pool

LLAMA = catalog.model("llama-3.1-8b")  # 32 layers of 8 cached heads, 128 wide, 16 bits
WIDTH = 8 * 256


def pool(precision=None, device="h100-sxm", **engine):
    return Pool(device=device, engine=Engine(kv_precision=precision, **engine))


def attention(precision):
    (shape,) = {
        op.shape for op in lower(LLAMA, pool(precision)).ops if isinstance(op.shape, Attention)
    }
    return shape


def table_of(precision, device="h100-sxm", max_len=32768):
    graph = lower(LLAMA, pool(precision, device))
    return price(graph, catalog.device(device), max_tokens=64, max_seqs=64, max_len=max_len)


def test_bytes_of_a_format_hold_scale_and_zero_of_each_group():
    kivi = KvPrecision.model_validate("int2")
    assert kivi.recent_tokens == 128
    assert kivi.bytes_of("int2") == 0.25 + 4 / 32
    assert KvPrecision(old="int4", group=64).bytes_of("int4") == 0.5 + 4 / 64
    assert KvPrecision(old="fp8").bytes_of("fp8") == 1.0


def test_a_step_reads_the_last_tokens_in_full_and_older_ones_in_fewer_bits():
    shape = attention(KvPrecision(old="int2", old_values="int4", recent_tokens=100))
    full = attention(None)
    for ctx in (1, 100, 101, 5000):
        old = max(ctx - 100, 0)
        wanted = 8 * 128 * ((0.375 + 0.625) * old + 4 * (ctx - old))
        assert shape.decode(3, ctx).kv_bytes == pytest.approx(3 * wanted)
        assert shape.cached_bytes(ctx) == pytest.approx(wanted)
        assert shape.decode(3, ctx).flop - full.decode(3, ctx).flop == 3 * old * 2 * WIDTH
    assert shape.prefill(10, 5000).kv_bytes == shape.decode(1, 5000).kv_bytes


def test_memory_holds_as_many_more_blocks_as_a_usual_request_takes_fewer_bytes():
    device = catalog.device("h100-sxm")
    plain, fewer = (memory(LLAMA, pool(p), device) for p in (None, KvPrecision(old="int4")))
    usual = 8000
    ratio = (128 + (usual - 128) * 0.625 / 2) / usual
    assert fewer.kv_bytes(usual) == pytest.approx(ratio * plain.kv_bytes(usual))
    assert fewer.blocks_for(usual) == pytest.approx(plain.blocks_for(usual) / ratio, rel=1e-3)
    assert fewer.kv_bytes_per_token == pytest.approx(0.625 / 2 * plain.kv_bytes_per_token)
    served = [
        prepare(LLAMA, Deployment(pools=(pool(p),)), mean_len=usual)[0]
        for p in (None, KvPrecision(old="int4"))
    ]
    moved = [one.kv_token_bytes for one in served]
    assert moved[1] == pytest.approx(ratio * moved[0])
    assert served[1].n_blocks == fewer.blocks_for(usual)


def test_a_window_that_holds_every_token_reads_like_a_cache_in_full():
    plain, wide = table_of(None), table_of(KvPrecision(old="int4", recent_tokens=40_000))
    np.testing.assert_allclose(wide.time_s.decode, plain.time_s.decode)
    np.testing.assert_allclose(wide.hbm_bytes.decode, plain.hbm_bytes.decode)
    # every token is written a second time all the same
    assert (wide.time_s.tokens[1:] > plain.time_s.tokens[1:]).all()


def test_fewer_bits_never_read_longer_and_save_nothing_inside_the_window():
    tables = [table_of(KvPrecision(old=old)) for old in ("int8", "int4", "int3", "int2")]
    for more, less in itertools.pairwise(tables):
        assert (less.time_s.decode <= more.time_s.decode * (1 + 1e-12)).all()
        assert less.time_s.decode[64, -1] < more.time_s.decode[64, -1]
    plain = table_of(None)
    inside = tables[0].knots_ctx <= 128
    at = np.searchsorted(plain.knots_ctx, tables[0].knots_ctx[inside])
    np.testing.assert_allclose(
        tables[0].time_s.decode[:, inside][:, [0, -1]],
        np.stack([plain.time_s.decode[:, at[0]], plain.time_s.decode[:, at[-1]]], axis=1),
    )


def test_slow_vector_units_bound_the_kernel():
    device = catalog.device("h100-sxm")
    slow = device.model_copy(update={"peak_flop_per_s": {**device.peak_flop_per_s, "fp32": 1e12}})
    shape = attention(KvPrecision(old="int2"))
    graph = lower(LLAMA, pool(KvPrecision(old="int2")))
    B, ctx = np.array([[4.0], [32.0]]), np.array([0.0, 128.0, 8000.0])
    fast_s, slow_s = (costs(graph, d).decode(shape, B, ctx) for d in (device, slow))
    wanted = B[:, 0] * (8000 - 128) * WIDTH * DEQUANTISE / (1e12 / 2)
    np.testing.assert_allclose(slow_s[:, 2], wanted)
    assert (fast_s[:, 2] < wanted).all()
    np.testing.assert_allclose(slow_s[:, :2], fast_s[:, :2])  # nothing to dequantise


def test_each_token_is_quantised_once():
    ops = {op.name: op for op in lower(LLAMA, pool(KvPrecision(old="int4"))).ops}
    op = ops["cache.quantise"]
    counts = op.shape.counts(1000)
    assert counts.activation_bytes == 1000 * WIDTH * 2
    assert counts.kv_bytes == pytest.approx(1000 * WIDTH * 0.625)
    assert "cache.quantise" not in {op.name for op in lower(LLAMA, pool()).ops}


def test_picking_reads_pages_in_full_beside_a_cache_in_fewer_bits():
    full = picking(lower(LLAMA, pool()).ops, 16, 1e-6)
    # a page: 8 heads of twice 128 elements of 2 bytes, and 32 scores of 8 bytes
    assert full.bytes_share == pytest.approx((8 * 256 * 2 + 32 * 8) / (16 * 8 * 256 * 2))
    assert full.memory_share == pytest.approx(1 / 16)  # two keys, as much as a token
    assert full.step_s == pytest.approx(2 * 32 * 1e-6)
    fewer = picking(lower(LLAMA, pool(KvPrecision(old="int4"))).ops, 16, 1e-6)
    assert fewer.bytes_share == pytest.approx(full.bytes_share * 2 / 0.625)
    assert picking(lower(LLAMA, pool()).ops, 64, 1e-6).bytes_share == full.bytes_share / 4


def simulated(**engine):
    case = forerun.load(
        {
            "name": "old", "model": "llama-3.1-8b", "fleet": {"l40s": 1},
            "traffic": {"rate_per_s": "0.4 req/s", "n_requests": 60, "isl": 8000, "osl": 300},
            "deployment": {"device": "l40s", "engine": {"prefix_caching": False, **engine}},
        }
    )  # fmt: skip
    return forerun.simulate(case, bootstrap=False)


def test_an_answer_says_what_older_kv_in_fewer_bits_takes_for_granted():
    plain, fewer = simulated(), simulated(kv_precision="int4")
    assert fewer.metrics.tpot_s.p50 < plain.metrics.tpot_s.p50
    assert fewer.metrics.kv_mean.value < plain.metrics.kv_mean.value
    assert any("older KV in fewer bits" in said for said in fewer.provenance["assumed"])
    assert "kv_precision" not in plain.deployment.model_dump(mode="json")["pools"][0]["engine"]


def test_what_cannot_be_kept_in_fewer_bits_is_refused():
    def wrong(model, **how):
        given = Deployment(pools=(pool(KvPrecision(old="int4"), **how),))
        with pytest.raises(Infeasible) as caught:
            prepare(catalog.model(model), given)
        return str(caught.value)

    latent = Deployment(
        pools=(Pool(device="h200-sxm", tp=8, engine=Engine(kv_precision=KvPrecision(old="int4"))),)
    )
    with pytest.raises(Infeasible, match="not keys and values of single tokens"):
        prepare(catalog.model("deepseek-v3"), latent)
    draft = {"kind": "ngram", "k": 3, "acceptance": {"alpha": 0.5}}
    assert "verify" in wrong("llama-3.1-8b", speculation=draft)
    wide = Pool(
        device="h100-sxm", kv_dtype="fp8", engine=Engine(kv_precision=KvPrecision(old="int8"))
    )
    with pytest.raises(ForerunError, match="more bytes than the last"):
        prepare(LLAMA, Deployment(pools=(wide,)))
