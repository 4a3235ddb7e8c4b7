"""What a deployment keeps on a device, what is left for the cache, and what would make it fit."""

import pytest

from forerun.catalog import device, model
from forerun.cost.fit import fit
from forerun.cost.memory import measure, memory, smallest_tp
from forerun.spec.deployment import Engine, Pool
from forerun.spec.params import weight_bytes

H100 = "h100-sxm"


def kept(name="llama-3.1-8b", on=H100, **pool):
    return memory(model(name), Pool(device=on, **pool), device(on))


def test_a_cached_token_of_llama_8b_takes_128_kib():
    # 32 layers * 8 heads * (128 + 128) * 2 bytes
    assert kept().kv_bytes_per_token == 131072


def test_a_latent_cache_is_repeated_on_every_tensor_parallel_device():
    # DeepSeek-V3: 61 layers * 576 * 2 bytes, on each of eight
    m = measure(model("deepseek-v3"), Pool(device="h200-sxm", tp=8), device(H100))
    assert m.kv_bytes_per_token == 70272
    assert m.kv_bytes_per_token_replica == 8 * 70272


def test_heads_divide_a_cache_until_there_is_one_a_device():
    assert kept(tp=8).kv_bytes_per_token == 131072 / 8
    # 8 KV heads over 16 devices: each kept twice
    twice = measure(model("llama-3.1-8b"), Pool(device=H100, tp=16), device(H100))
    assert twice.kv_bytes_per_token_replica == 2 * 131072


def test_an_8_bit_cache_takes_half():
    assert kept(kv_dtype="fp8").kv_bytes_per_token == 65536


def test_windowed_layers_cap_their_share():
    # gpt-oss-20b: 12 layers of 24 see 128 tokens; 8 heads * 128 * 2 bytes a token and layer
    m = kept("gpt-oss-20b")
    layer = 8 * (64 + 64) * 2
    assert m.kv_bytes(100) == 24 * layer * 100
    assert m.kv_bytes(10_000) == 12 * layer * (10_000 + 128)
    assert m.blocks_for(10_000) > 1.9 * m.n_blocks
    assert any("lower bound" in a for a in m.assumed)


def test_recurrent_state_is_per_sequence_not_per_token():
    m = kept("nemotron-h-8b")
    assert m.state_bytes_per_seq > 0
    assert m.kv_bytes(0) == 0
    # four attention layers only
    assert m.kv_bytes_per_token == 4 * 8 * 256 * 2


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "qwen3-32b-fp8", "deepseek-v3"])
def test_weights_take_what_the_checkpoint_stores(name):
    # latent projections are kept in 16 bits for the absorbed form: 0.15 % of DeepSeek-V3
    kept = measure(model(name), Pool(device=H100), device(H100))
    got = kept.weights_bytes - kept.weights_by_part.get("padding", 0.0)
    assert got == pytest.approx(weight_bytes(model(name)), rel=2e-3)


def test_tensor_parallel_divides_weights_but_for_the_small_parts():
    assert kept(tp=8).weights_bytes == pytest.approx(kept().weights_bytes / 8, rel=1e-3)


def test_pipeline_stages_hold_their_layers_and_the_ends_hold_more():
    m = kept(pp=2)
    first, last = m.stages
    assert first.weights_bytes + last.weights_bytes == pytest.approx(kept().weights_bytes)
    assert first.weights_by_part["embedding"] == 128256 * 4096 * 2
    assert "embedding" not in last.weights_by_part
    assert last.weights_by_part["lm_head"] == 128256 * 4096 * 2


def test_a_tied_head_needs_its_own_copy_on_another_stage():
    one = kept("llama-3.2-1b")
    two = kept("llama-3.2-1b", pp=2)
    assert "lm_head" not in one.weights_by_part
    assert two.stages[1].weights_by_part["lm_head"] == 128256 * 2048 * 2


def test_blocks_fill_what_is_left():
    m = kept()
    left = 0.9 * m.hbm_bytes - m.weights_bytes - m.activation_bytes - m.reserve_bytes
    assert m.kv_pool_bytes == pytest.approx(left)
    assert m.n_blocks == int(left // (16 * 131072))
    assert m.max_concurrency(1600) == int(left // (1600 * 131072))


def test_attention_groups_have_a_cache_each():
    # each pays for buffers to talk to the other
    assert kept(dp=2).n_blocks >= 1.9 * kept().n_blocks


def test_a_stated_number_of_blocks_is_taken():
    m = kept(engine=Engine(n_blocks=100, block_tokens=16))
    assert m.n_blocks == 100
    assert m.max_concurrency(160) == 10
    assert m.max_context == 1600


def test_the_longest_context_is_the_models_or_what_fits():
    assert kept().max_context == 131072
    small = kept(on="l4")
    assert small.fits
    assert 0 < small.max_context < 131072
    assert small.max_concurrency(small.max_context) == 1
    assert small.max_concurrency(small.max_context + 16) == 0


def test_a_model_that_does_not_fit_says_what_would_make_it():
    m = kept("llama-3.1-70b")
    assert not m.fits
    assert m.n_blocks == 0
    text = str(m.problems[0])
    assert "141 GB weights" in text
    for repair in ("tp = 2", "dtype = ", "a device with more than"):
        assert repair in text


def test_every_named_repair_makes_it_fit():
    m, h100 = model("llama-3.1-70b"), device(H100)
    assert smallest_tp(m, Pool(device=H100), h100) == 2
    # the whole context needs more: 70 GB of weights each leave room for some 30,000 tokens
    long = Engine(max_model_len=100_000)
    assert smallest_tp(m, Pool(device=H100, engine=long), h100) == 4
    for tp, fits in ((1, False), (2, True), (4, True)):
        assert memory(m, Pool(device=H100, tp=tp), h100).fits == fits
    suggestions = fit(m, h100).suggestions
    dtype = next(s for s in suggestions if s.startswith("dtype")).removeprefix("dtype = ")
    assert memory(m, Pool(device=H100, dtype=dtype), h100).fits


def test_more_than_a_node_is_proposed_when_a_node_is_not_enough():
    text = str(kept("deepseek-v3", tp=8).problems[0])
    assert "tp = 8 with pp = 2" in text
    assert kept("deepseek-v3", tp=8, pp=2).fits


def test_a_context_that_does_not_fit_names_the_longest_that_does():
    m = kept(on="l4", engine=Engine(max_model_len=100_000))
    assert not m.fits
    assert f"max_model_len <= {m.max_context}" in m.problems[0].fix


def test_state_of_too_many_sequences_is_named():
    m = kept("nemotron-h-8b", on="l4", engine=Engine(max_num_seqs=100_000))
    assert not m.fits


def test_fit_answers_for_impossible_layouts_too():
    answer = fit(model("llama-3.1-8b"), device(H100), pool=Pool(device=H100, tp=3))
    assert not answer.fits
    assert answer.memory is None
    assert answer.smallest_tp == 1
    assert "does not divide" in answer.problems[-1].what


def test_fit_lists_concurrency_by_context():
    answer = fit(model("llama-3.1-8b"), device(H100))
    assert answer.fits
    assert answer.params == 8030261248
    table = answer.concurrency()
    assert list(table) == [1024, 8192, 32768, 131072]
    assert list(table.values()) == sorted(table.values(), reverse=True)
    assert table[1024] >= 8 * table[8192]


def test_smaller_batches_leave_more_cache():
    few = kept(engine=Engine(max_num_batched_tokens=2048))
    many = kept(engine=Engine(max_num_batched_tokens=32768))
    assert few.kv_pool_bytes > many.kv_pool_bytes
