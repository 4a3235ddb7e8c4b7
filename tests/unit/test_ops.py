"""Flop and bytes of operators against counts by hand, and what lowering makes of a model."""

import numpy as np
import pytest

from forerun.catalog import device, model
from forerun.errors import ShapeError
from forerun.ops.attention import (
    Attention,
    attention_decode,
    attention_prefill,
    causal_pairs,
    index_decode,
    latent_reprojection,
)
from forerun.ops.check import check_parallel, math_format, notes_parallel
from forerun.ops.collectives import Collective, devices_visited, wire_bytes
from forerun.ops.elementwise import activation, norm, rope_and_cache
from forerun.ops.embedding import embedding
from forerun.ops.graph import EMBED, HEAD
from forerun.ops.lower import lower, stage_sizes
from forerun.ops.matmul import Matmul, matmul
from forerun.ops.moe import active_experts, loads, moe
from forerun.ops.sampling import sampling
from forerun.ops.ssm import Scan, state_decode, state_prefill
from forerun.spec.deployment import Pool
from forerun.spec.model import Dense, Gqa, Layers, Linear, Model, Moe, Quantization

H100 = "h100-sxm"


def small(**changes) -> Model:
    """Two layers of width 8: 4 query heads, 2 KV heads of 2, feed-forward 16, 10 words."""
    mixer = changes.pop("mixer", Gqa(n_heads=4, n_kv_heads=2, head_dim=2))
    ffn = changes.pop("ffn", Dense(inter=16))
    layers = (Layers(n=2, mixer=mixer, ffn=ffn),)
    return Model(
        **{"name": "small", "hidden": 8, "vocab": 10, "layers": layers, "source": "made for tests"}
        | changes
    )


def ops_of(m: Model, **pool):
    return {op.name: op for op in lower(m, Pool(device=H100, **pool)).ops}


def test_a_product_counts_two_flop_a_multiply_add_and_each_operand_once():
    # Y[3, 4] = X[3, 5] W[5, 4] in bf16: 2*3*4*5 = 120 flop; W 20 values, X 15, Y 12, 2 bytes each
    counts = matmul(3, n=4, k=5)
    assert counts.flop == 120
    assert counts.weight_bytes == 40
    assert counts.activation_bytes == (15 + 12) * 2
    assert matmul(0, n=4, k=5).hbm_bytes == 0


def test_causal_pairs_of_a_chunk_after_cached_tokens():
    # 3 new after 2 cached: the queries see 3, 4 and 5 keys
    assert causal_pairs(3, 2) == 12
    # with a window of 4: 3, 4 and 4
    assert causal_pairs(3, 2, window=4) == 11
    # far beyond the window every query sees 4
    assert causal_pairs(3, 100, window=4) == 12


def test_prefill_attention_by_hand():
    # 2 new after 1 cached: pairs 2 + 3 = 5; 4 heads of 8+8: 2*4*16*5 = 640 flop
    counts = attention_prefill(2, 1, n_heads=4, n_kv_heads=2, qk_dim=8, v_dim=8)
    assert counts.flop == 640
    # cached K and V of one token: 2 heads * 16 * 2 bytes; q, o, k, v of two tokens: 2*(4+2)*16*2
    assert counts.kv_bytes == 64
    assert counts.activation_bytes == 384


def test_decode_attention_by_hand():
    # 3 requests of 10 tokens: 2*3*4*16*10 = 3840 flop; K and V 3*2*16*10*2 = 1920 bytes
    counts = attention_decode(3, 10, n_heads=4, n_kv_heads=2, qk_dim=8, v_dim=8)
    assert counts.flop == 3840
    assert counts.kv_bytes == 1920
    # a window of 4 reads 4 of the 10
    windowed = attention_decode(3, 10, n_heads=4, n_kv_heads=2, qk_dim=8, v_dim=8, window=4)
    assert windowed.kv_bytes == 768


def test_latent_attention_reads_one_shared_vector_a_token():
    # DeepSeek-V3, one layer: 512 + 64 elements of 2 bytes a cached token, 128 heads on them
    shape = Attention(128, 128, 192, 128, latent_dim=576, latent_v=512, reproject=256)
    counts = shape.decode(1, 1000)
    assert counts.kv_bytes == 1000 * 576 * 2
    assert counts.flop == 2 * 128 * (576 + 512) * 1000
    assert shape.cached_bytes(1.0) == 1152


def test_latent_prefill_expands_the_cached_part_once_a_chunk():
    shape = Attention(128, 128, 192, 128, latent_dim=576, latent_v=512, reproject=256)
    extra = shape.prefill(4, 100).flop - 2 * 128 * (192 + 128) * causal_pairs(4, 100)
    assert extra == latent_reprojection(100, n_heads=128, rank=512, width=256)
    assert extra == 2 * 100 * 512 * 128 * 256


def test_sparse_attention_reads_its_choice_and_scores_everything():
    # 64 chosen of 1000: attention reads 64, the indexer 4 heads of 16 over all 1000
    shape = Attention(8, 2, 32, 32, sparse_topk=64, index_heads=4, index_dim=16)
    dense = attention_decode(1, 64, n_heads=8, n_kv_heads=2, qk_dim=32, v_dim=32)
    index = index_decode(1, 1000, heads=4, dim=16)
    assert shape.decode(1, 1000).flop == dense.flop + index.flop
    assert index.flop == 2 * 4 * 16 * 1000
    # all keys stay cached: (32+32)*2 heads*2 bytes and a 16-byte index key
    assert shape.cached_bytes(1000.0) == 1000 * (256 + 16)


def test_compressed_cache_grows_by_entries_beside_a_window():
    # window 128, one entry for 4 tokens, at most 16 of them read; one 32-wide vector is K and V
    shape = Attention(8, 1, 32, 32, window=128, one_cache=True, compress=4, sparse_topk=16)
    assert shape.cached_bytes(1000.0) == (128 + 250) * 64
    assert shape.decode(1, 1000).kv_bytes == (128 + 16) * 64
    assert shape.kinks == (128, 64)


def test_windowed_layers_stop_growing_at_their_window():
    shape = Attention(4, 2, 8, 8, window=100)
    assert shape.cached_bytes(60.0) == 60 * 2 * 16 * 2
    assert shape.cached_bytes(100_000.0) == 100 * 2 * 16 * 2


def test_one_token_wakes_topk_experts_and_many_wake_all():
    assert active_experts(0, n_experts=8, topk=2, n_local=8) == 0
    assert active_experts(1, n_experts=8, topk=2, n_local=8) == pytest.approx(2)
    # two tokens: 8 * (1 - (6/8)^2) = 3.5
    assert active_experts(2, n_experts=8, topk=2, n_local=8) == pytest.approx(3.5)
    assert active_experts(1000, n_experts=8, topk=2, n_local=4) == pytest.approx(4)


def test_expert_flop_and_weights_by_hand():
    # 2 tokens, top 2 of 8, D = 4, F = 3, gated: 4 rows * 3 matrices * 12 * 2 = 288 flop
    counts = moe(2, hidden=4, inter=3, n_experts=8, topk=2, n_local=8)
    assert counts.flop == pytest.approx(288)
    # 3.5 experts awake, 36 weights of 2 bytes each
    assert counts.weight_bytes == pytest.approx(3.5 * 72)


def test_experts_that_are_not_chosen_alike_are_woken_later_by_hand():
    def woken(n_tokens, distribution):
        return active_experts(
            n_tokens, n_experts=128, topk=8, n_local=32, distribution=distribution
        )  # fmt: skip

    for how in ("uniform", "power_law_1.01", "power_law_1.2", "power_law_1.0"):
        assert woken(0, how) == 0
        assert woken(1, how) == pytest.approx(2)  # 8 of 128, a quarter of them here
        assert woken(1e6, how) == pytest.approx(32, rel=0.02)
        assert np.all(np.diff(woken(np.arange(1.0, 600.0), how)) >= 0)
    # taking turns: 32 * min(1, 4 * 8 / 128)
    assert woken(4, "balanced") == pytest.approx(8)
    # a density x**-1.2 over [1, 25.6] has (1 - rank (1 - 25.6**-0.2))**-5 at a rank: 1.9 at 0.25,
    # 9.2 at 0.75, 6.4 on average, which 32 * 8 / 128 = 2 tokens are
    at = (1 - np.linspace(0, 1, 10_001) * (1 - 25.6**-0.2)) ** -5
    asleep = (1 - 2 * at / at.mean() / 32) ** 32
    assert woken(32, "power_law_1.2") == pytest.approx(32 * (1 - asleep.mean()), rel=3e-3)
    assert woken(32, "uniform") == pytest.approx(32 * (1 - (1 - 1 / 16) ** 32))


def test_tokens_of_experts_add_up_whatever_their_distribution():
    for how in ("uniform", "power_law_1.01", "power_law_1.2"):
        tokens = loads(np.array([1.0, 32.0, 4096.0]), n_experts=256, topk=8, distribution=how)
        np.testing.assert_allclose(tokens.mean(axis=1), np.array([1.0, 32.0, 4096.0]) / 32)
        assert np.all(np.diff(tokens, axis=1) >= 0)


def test_small_operators_by_hand():
    # norm of 8 values: reads x and residual, writes both: 32 values of 2 bytes
    assert norm(8).counts(1).activation_bytes == 64
    # gated activation of 16: reads 32, writes 16
    assert activation(16, gated=True).counts(2).activation_bytes == 2 * 48 * 2
    # rope on q 8, k 4 (read, write), then k 4 and v 4 read and written to the cache
    counts = rope_and_cache(8, 4, 4, kv_bytes=1.0).counts(1)
    assert counts.activation_bytes == (12 + 8 + 12) * 2
    assert counts.kv_bytes == 8
    assert embedding(3, width=8).hbm_bytes == 3 * 8 * 2 * 2
    # 10 words: 6 bytes to make fp32, three passes of 8 bytes
    assert sampling(2, vocab=10).hbm_bytes == 2 * 10 * 30


def test_a_recurrent_state_costs_the_same_at_any_context():
    # 2 heads of 4 x 8, fp32: 64 elements read and written = 512 bytes; 5 flop an element
    counts = state_decode(1, kind="mamba2", n_heads=2, k_dim=4, v_dim=8)
    assert (counts.flop, counts.kv_bytes) == (320, 512)
    shape = Scan("mamba2", 2, 4, 8, conv=4, conv_channels=10)
    assert np.all(shape.decode(1, np.array([0, 10, 10**6])).kv_bytes == 512)
    assert shape.bytes_per_seq == 64 * 4 + 3 * 10 * 2


def test_a_scan_reads_its_state_once_a_block():
    # 512 tokens are two Mamba-2 blocks of 256: state in, out, and twice between
    counts = state_prefill(512, kind="mamba2", n_heads=2, k_dim=4, v_dim=8)
    assert counts.kv_bytes == 2 * 64 * 4 * 3
    assert counts.flop == 512 * 2 * 256 * 12 + 4 * 512 * 64


def test_collectives_put_the_textbook_bytes_on_the_wire():
    assert wire_bytes("all_reduce", 800, 8) == 2 * 7 / 8 * 800
    assert wire_bytes("all_gather", 800, 8) == 700
    assert wire_bytes("send_recv", 800, 8) == 800
    assert Collective("all_to_all", 4, 10).sent(2) == 15
    # one expert a device: a token visits topk of them; all on one device: that one
    assert devices_visited(8, n_experts=8, topk=2) == pytest.approx(2)
    assert devices_visited(1, n_experts=8, topk=2) == pytest.approx(1, abs=0.11)


def test_lowering_a_small_model_gives_the_products_one_expects():
    ops = ops_of(small())
    assert ops["qkv"].shape == Matmul(16, 8)  # 4*2 q, 2*2 k, 2*2 v
    assert ops["o"].shape == Matmul(8, 8)
    assert ops["ffn.up"].shape == Matmul(32, 8)
    assert ops["ffn.down"].shape == Matmul(8, 16)
    assert ops["lm_head"].shape == Matmul(10, 8)
    assert ops["lm_head"].axis == "seqs"
    assert ops["qkv"].count == 2
    assert ops["norm"].count == 4


def test_tensor_parallel_adds_two_all_reduces_a_layer():
    ops = ops_of(small(), tp=2)
    for name in ("mixer.all_reduce", "ffn.all_reduce"):
        assert ops[name].shape == Collective("all_reduce", 2, 16)
        assert ops[name].count == 2
    assert ops["qkv"].shape == Matmul(8, 8)


def test_parallel_blocks_reduce_once_a_layer():
    m = small(layers=(Layers(n=2, mixer=Gqa(n_heads=4, n_kv_heads=2, head_dim=2),
                             ffn=Dense(inter=16), parallel=True, norms=1),))  # fmt: skip
    ops = ops_of(m, tp=2)
    assert "mixer.all_reduce" not in ops
    assert ops["ffn.all_reduce"].count == 2


def test_kv_heads_are_repeated_when_tp_exceeds_them():
    ops = ops_of(small(), tp=4)
    assert ops["attention"].shape.n_heads == 1
    assert ops["attention"].shape.n_kv_heads == 1
    notes = notes_parallel(small(), Pool(device=H100, tp=4), device(H100))
    assert any("each is kept on 2 devices" in n for n in notes)


def test_pipeline_sends_between_stages_and_spreads_layers():
    graph = lower(small(), Pool(device=H100, pp=2))
    ops = {op.name: op for op in graph.ops}
    assert ops["stage.send_recv"].count == 1
    assert graph.stages() == [[(EMBED, 1), (0, 1)], [(0, 1), (HEAD, 1)]]
    assert stage_sizes(10, 4) == (3, 3, 2, 2)


def test_experts_travel_by_all_to_all_only_with_attention_data_parallelism():
    m = small(ffn=Moe(inter=16, n_experts=8, topk=2))
    assert "moe.dispatch" not in ops_of(m, tp=4, ep=4)
    assert "ffn.all_reduce" in ops_of(m, tp=4, ep=4)
    spread = ops_of(m, dp=4, ep=4)
    assert spread["experts"].shape.n_local == 2
    # T tokens over 4 devices: a device sends T/4 tokens to the devices visited, D = 8, bf16
    visited = devices_visited(4, n_experts=8, topk=2)
    assert spread["moe.dispatch"].shape.bytes_per == pytest.approx(visited * 8 / 4 * 2)
    assert "ffn.all_reduce" not in spread
    assert {"moe.all_gather", "moe.reduce_scatter"} <= ops_of(m, dp=4).keys()


def test_context_parallel_divides_cache_and_tokens():
    ops = ops_of(small(), cp=2)
    assert ops["attention"].shape.cached_bytes(10.0) == 10 * 16 / 2
    assert ops["qkv"].split == 2
    assert "context.all_gather" in ops


def test_parts_that_stay_unquantised_keep_their_format():
    quant = Quantization(weights="fp8", activations="fp8", kept=("lm_head", "attention"))
    ops = ops_of(small(quantization=quant))
    assert ops["ffn.up"].dtype == "fp8"
    # converting activations is in the time of the product, as tables of engines have it
    assert not any("quantise" in name for name in ops)
    assert ops["qkv"].dtype == "bf16"
    assert ops["lm_head"].dtype == "bf16"
    # a pool's wish quantises linear layers, never the head
    asked = ops_of(small(), dtype="int4_wo")
    assert asked["qkv"].dtype == "int4_wo"
    assert asked["lm_head"].dtype == "bf16"


def test_parts_with_a_format_of_their_own_have_it():
    quant = Quantization(
        weights="fp8_block", activations="fp8_block", by_part=(("experts", "mxfp4"),)
    )
    m = small(ffn=Moe(inter=16, n_experts=8, topk=2), quantization=quant)
    assert ops_of(m)["experts"].dtype == "mxfp4"
    assert ops_of(m)["qkv"].dtype == "fp8_block"


def test_an_unknown_kept_part_is_said():
    quant = Quantization(weights="fp8", activations="fp8", kept=("sideways",))
    graph = lower(small(quantization=quant), Pool(device=H100))
    assert any("'sideways'" in a for a in graph.assumed)


def test_impossible_layouts_are_all_named_with_repairs():
    with pytest.raises(ShapeError) as error:
        lower(small(), Pool(device=H100, tp=3, pp=5, ep=2))
    text = str(error.value)
    assert "3 does not divide 4 attention heads of small\n  try: tp = 1, 2 or 4" in text
    assert "5 stages for 2 layers" in text
    assert "has no experts to spread" in text


def test_experts_that_cannot_be_spread_are_refused():
    m = small(ffn=Moe(inter=16, n_experts=6, topk=2))
    problems = check_parallel(m, Pool(device=H100, dp=4, ep=4), device(H100))
    assert [p.what for p in problems] == ["4 does not divide 6 experts of small"]
    assert problems[0].fix == "ep = 1 or 2; or redundant_experts = 2"


def test_a_layout_beyond_the_node_needs_a_network():
    lonely = device(H100).model_copy(update={"network": None})
    problems = check_parallel(small(), Pool(device=H100, dp=16), lonely)
    assert "exceed the 8" in problems[0].what
    assert not check_parallel(small(), Pool(device=H100, dp=16), device(H100))


def test_formats_without_units_fall_back_and_say_so():
    assert math_format(device("a100-sxm-80gb"), "fp8") == "bf16"
    assert math_format(device("v100-sxm-32gb"), "bf16") == "fp16"
    assert math_format(device(H100), "mxfp4") == "bf16"
    notes = notes_parallel(small(), Pool(device="a", dtype="fp8"), device("a100-sxm-80gb"))
    assert any("no fp8 arithmetic" in n for n in notes)


def test_linear_mixers_have_a_scan_instead_of_a_cache():
    mixer = Linear(kind="gdn", n_heads=4, n_k_heads=2, k_dim=8, v_dim=8, conv=4)
    ops = ops_of(small(mixer=mixer))
    # q, k: 2*8 each; v, gate: 4*8 each; two scalars a head
    assert ops["in"].shape.n == 2 * 16 + 2 * 32 + 8
    assert ops["scan"].shape.conv_channels == 64
    assert ops["scan"].axis == "decode"


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b"])
def test_graphs_hold_every_parameter(name):
    from forerun.spec.params import count

    graph = lower(model(name), Pool(device=H100))
    assert graph.params() == pytest.approx(count(model(name)).total, rel=1e-4)


def test_graphs_of_the_whole_catalog_hold_every_parameter():
    from forerun.catalog import models
    from forerun.spec.params import count

    wrong = {
        name: graph / exact - 1
        for name in models()
        if abs(
            (graph := lower(model(name), Pool(device=H100)).params())
            / (exact := count(model(name)).total)
            - 1
        )
        > 1e-4
    }
    assert not wrong
