"""Reading config.json: every known file, what is not known is said, and broken files by name."""

import json
from pathlib import Path

import pytest

from forerun.errors import SpecError
from forerun.spec.hf import read_config
from forerun.spec.params import cached_compressed, cached_per_token, count, storage, weight_bytes

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 128256,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip


def read(config, name="m"):
    return read_config(config, name=name, source=f"{name}.json")


def without(*names, **changes):
    return {k: v for k, v in LLAMA.items() if k not in names} | changes


@pytest.fixture(scope="module")
def configs(shared_data) -> dict[str, dict]:
    folder = shared_data / "hf_configs"
    return {p.stem.split("--")[1]: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}


def kv_bytes_per_token(model, dtype_bytes=2):
    """Of all layers, before any window is full."""
    return dtype_bytes * sum(r.n * cached_per_token(r.mixer) for r in model.layers if r.mixer)


# ------------------------------------------------------------------ the files of current makers


def test_every_shared_config_is_read(configs):
    assert len(configs) == 86
    for name, config in configs.items():
        model = read(config, name)
        stated = config.get("text_config", config).get("num_hidden_layers")
        assert model.n_layers == (stated or len(config.get("layers_block_type", ()))), name
        assert count(model).total > 0, name


def test_every_shared_config_is_understood_but_for_what_it_says(configs):
    """The only sentences left are about things that the files themselves leave open."""
    expected = (
        "no dtype",
        "the name says",
        "in groups of 32",
        "attention_other_setting",
        "encoder",
    )
    for name, config in configs.items():
        for sentence in read(config, name).assumed:
            assert any(e in sentence for e in expected), (name, sentence)


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        # layers * 2 (k and v) * kv heads * head width
        ("Meta-Llama-3.1-8B", 32 * 2 * 8 * 128),
        ("Meta-Llama-3.1-70B", 80 * 2 * 8 * 128),
        ("Qwen3-235B-A22B", 94 * 2 * 4 * 128),
        # one latent vector of 512 and a rotated part of 64 a layer, shared by all heads
        ("DeepSeek-V3", 61 * (512 + 64)),
        ("Kimi-K2-Instruct", 61 * (512 + 64)),
        # ... and an index key of 128
        ("DeepSeek-V3.2", 61 * (512 + 64 + 128)),
        # GLM 5.2: indexers in layers 1-3 and then every fourth: 3 + 18 of 78
        ("GLM-5.2", 78 * (512 + 64) + 21 * 128),
        # every fourth of 64 layers has attention: 4 kv heads of 256
        ("Qwen3.5-27B", 16 * 2 * 4 * 256),
        # 6 of 52 layers are attention: 2 kv heads of 128
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 6 * 2 * 2 * 128),
        # 24 latent layers, the other 69 keep a state instead
        ("Kimi-K3", 24 * (512 + 64)),
        # 25 of 30 layers local (8 kv heads of 256), 5 global (2 of 512; k and v are both cached)
        ("gemma-4-26B-A4B", 25 * 2 * 8 * 256 + 5 * 2 * 2 * 512),
        # 39 short layers: 8 kv heads, 9 full: 4; keys 192 wide, values 128
        ("MiMo-V2-Flash", (39 * 8 + 9 * 4) * (192 + 128)),
        # 60 layers of 4 kv heads, 57 of them with one index key of 128
        ("MiniMax-M3", 60 * 2 * 4 * 128 + 57 * 128),
        # one vector of 512 is both key and value
        ("DeepSeek-V4-Flash", 43 * 512),
    ],
)
def test_cache_of_one_token_is_what_a_hand_count_gives(configs, name, elements):
    assert kv_bytes_per_token(read(configs[name], name)) == 2 * elements


def test_v4_keeps_one_entry_for_4_or_128_tokens_beside_a_window_of_128(configs):
    model = read(configs["DeepSeek-V4-Flash"])
    by_ratio = {}
    for run in model.layers:
        by_ratio[run.mixer.compress] = by_ratio.get(run.mixer.compress, 0) + run.n
        assert run.mixer.window == 128
    # ratios 0, 0, then 4 and 128 by turns; the 44th entry is the MTP layer's
    assert by_ratio == {None: 2, 4: 21, 128: 20}
    sparse = next(r.mixer for r in model.layers if r.mixer.compress == 4)
    assert (sparse.sparse_topk, cached_compressed(sparse)) == (512, 512 + 128)
    heavy = next(r.mixer for r in model.layers if r.mixer.compress == 128)
    assert (heavy.sparse_topk, cached_compressed(heavy)) == (None, 512)


def test_windows_lie_where_the_files_put_them(configs):
    oss = read(configs["gpt-oss-20b"])
    assert [r.mixer.window for r in oss.layers] == [128, None] * 12
    assert all(r.mixer.sinks for r in oss.layers)
    scout = read(configs["Llama-4-Scout-17B-16E-Instruct"])
    assert [(r.n, r.mixer.window, r.mixer.rope) for r in scout.layers[:2]] == [
        (3, 8192, True), (1, None, False),
    ]  # fmt: skip
    mimo = read(configs["MiMo-V2-Flash"])
    assert sum(r.n for r in mimo.layers if r.mixer.window == 128) == 39
    # a window as long as the context, or switched off, is none
    assert {r.mixer.window for r in read(configs["MiMo-7B-Base"]).layers} == {None}


def test_dense_layers_come_first_and_maverick_alternates(configs):
    v3 = read(configs["DeepSeek-V3"])
    assert [(r.n, r.ffn.kind) for r in v3.layers] == [(3, "dense"), (58, "moe")]
    assert (v3.layers[1].ffn.n_shared, v3.layers[1].ffn.shared_inter) == (1, 2048)
    maverick = read(configs["Llama-4-Maverick-17B-128E-Instruct"])
    kinds = [r.ffn.kind for r in maverick.layers for _ in range(r.n)]
    assert kinds == ["dense", "moe"] * 24
    assert {r.ffn.inter for r in maverick.layers} == {16384, 8192}


def test_nas_blocks_differ_and_skipped_attention_has_no_cache(configs):
    model = read(configs["Llama-3_3-Nemotron-Super-49B-v1"])
    blocks = configs["Llama-3_3-Nemotron-Super-49B-v1"]["block_configs"]
    kept = sum(not b["attention"]["no_op"] for b in blocks)
    assert kept < 80
    assert kv_bytes_per_token(model) == kept * 2 * 2 * 8 * 128


def test_grouped_layers_hold_the_same_as_the_runs(configs):
    for name in ("DeepSeek-V4-Pro", "NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "gpt-oss-120b"):
        model = read(configs[name])
        assert len(model.grouped) <= 4
        again = model.model_copy(update={"layers": model.grouped})
        assert again.n_layers == model.n_layers
        assert count(again) == count(model)


# ------------------------------------------------------------------------- quantised checkpoints


@pytest.mark.parametrize(
    ("name", "weights", "kv", "formats"),
    [
        ("DeepSeek-V3", "fp8_block", None, {"attention": "fp8_block", "lm_head": "bf16"}),
        ("Qwen3-32B-FP8-Static-PerTensor", "fp8", "fp8", {"dense": "fp8", "lm_head": "bf16"}),
        ("gpt-oss-120b", "mxfp4", None, {"experts": "mxfp4", "attention": "bf16"}),
        ("Kimi-K2.5", "int4_wo", None, {"experts": "int4_wo", "shared_experts": "bf16"}),
        ("Kimi-K3", "mxfp4", None, {"experts": "mxfp4", "linear_attention": "bf16"}),
        ("DeepSeek-V4-Flash", "fp8_block", None, {"experts": "mxfp4", "attention": "fp8_block"}),
        ("DeepSeek-V4-Pro-NVFP4", "fp8_block", None, {"experts": "nvfp4", "lm_head": "bf16"}),
        ("Gemma-4-31B-IT-NVFP4", "nvfp4", "fp8", {"dense": "nvfp4", "attention": "bf16"}),
        ("Qwen3.6-27B-NVFP4", "nvfp4", "fp8", {"dense": "nvfp4", "linear_attention": "fp8"}),
        ("MiniMax-M3-NVFP4", "nvfp4", None, {"experts": "nvfp4", "attention": "mxfp8"}),
        ("GLM-5-FP8", "fp8_block", None, {"indexer": "fp8_block", "router": "bf16"}),
    ],
)  # fmt: skip
def test_quantised_checkpoints_store_parts_in_their_formats(configs, name, weights, kv, formats):
    model = read(configs[name], name)
    stored = {part: dtype for part, _, dtype in storage(model)}
    # K3 keeps all self_attn modules, its delta attention among them
    assert (model.quantization.weights, model.quantization.kv) == (weights, kv)
    assert {p: stored[p] for p in formats} == formats


def test_bytes_of_a_quantised_checkpoint_are_elements_times_format(configs):
    """gpt-oss-20b: 19.1 G expert elements at 17/32 byte (4 bits and a shared scale), the rest 2."""
    model = read(configs["gpt-oss-20b"])
    parts = dict(count(model).by_part)
    rest = count(model).total - parts["experts"]
    assert weight_bytes(model) == pytest.approx(parts["experts"] * 17 / 32 + 2 * rest, rel=1e-12)


@pytest.mark.parametrize(
    ("quantization", "weights", "activations"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4_wo", "bf16"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_wo", "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4_wo", "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8_wo", "bf16"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "nvfp4"),
        (
            {"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {"g": {
                "targets": ["Linear"], "weights": {"num_bits": 8, "type": "int"},
                "input_activations": {"num_bits": 8}}}},
            "int8", "int8",
        ),
    ],
)  # fmt: skip
def test_common_quantisation_methods_are_known(quantization, weights, activations):
    quant = read(LLAMA | {"quantization_config": quantization}).quantization
    assert (quant.weights, quant.activations) == (weights, activations)
    assert {"embedding", "lm_head", "norms"} <= set(quant.kept)


def test_an_unknown_quantisation_is_said_and_left_out():
    model = read(LLAMA | {"quantization_config": {"quant_method": "hqq", "nbits": 3}})
    assert model.quantization is None
    assert any("hqq" in s and "not quantised" in s for s in model.assumed)


def test_a_name_that_promises_a_format_the_file_lacks_is_said():
    assert any("NVFP4" in s for s in read(LLAMA, "Llama-NVFP4").assumed)


# ------------------------------------------------------------------------------ what is not known


def test_a_plain_file_leaves_nothing_to_say():
    assert read(LLAMA).assumed == ()


def test_an_unknown_field_is_said():
    model = read(LLAMA | {"num_memory_tokens": 512})
    assert model.assumed == (
        "num_memory_tokens = 512 is not known to this reader: read as if it were absent",
    )


def test_an_unknown_model_type_is_read_as_llama_and_says_so():
    model = read(LLAMA | {"model_type": "brandnew"})
    assert model.layers == read(LLAMA).layers
    assert any("'brandnew'" in s and "Llama-like" in s for s in model.assumed)


def test_fields_that_only_change_values_are_not_said():
    assert read(LLAMA | {"rope_theta": 5e5, "rms_norm_eps": 1e-5, "bos_token_id": 1}).assumed == ()


def test_a_nested_decoder_is_found():
    nested = {"model_type": "llava", "text_config": LLAMA, "tie_word_embeddings": True}
    assert read(nested).layers == read(LLAMA).layers
    assert read(nested).tied_embeddings


def test_an_unknown_encoder_is_described_but_not_counted():
    vision = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    model = read({"model_type": "llava", "text_config": LLAMA, "vision_config": vision})
    assert (model.vision.n_layers, model.vision.params) == (24, None)
    assert any("encoder" in s for s in model.assumed)
    assert count(model).total == count(read(LLAMA)).total


# ---------------------------------------------------------------------------------- broken files


def problems(config):
    with pytest.raises(SpecError) as caught:
        read(config)
    return [str(p) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("hidden_size", "hidden_size is missing"),
        ("num_hidden_layers", "num_hidden_layers is missing"),
        ("num_attention_heads", "num_attention_heads is missing"),
        ("intermediate_size", "intermediate_size is missing"),
        ("vocab_size", "vocab_size is missing"),
    ],
)
def test_a_missing_field_is_named(field, word):
    assert any(word in p for p in problems(without(field)))


def test_a_missing_field_is_named_once_and_makes_no_others():
    assert len(problems(without("hidden_size"))) == 1
    assert len(problems(without("num_attention_heads"))) == 1


def test_all_problems_come_at_once():
    found = problems(without("hidden_size", "intermediate_size", num_attention_heads="32"))
    assert any("hidden_size is missing" in p for p in found)
    assert any("intermediate_size is missing" in p for p in found)
    assert any("num_attention_heads is '32'" in p for p in found)


@pytest.mark.parametrize("value", ["4096", 4096.5, -1, 0, True, [4096], {"a": 1}])
def test_a_wrong_type_is_named(value):
    assert any("hidden_size is" in p for p in problems(LLAMA | {"hidden_size": value}))


def test_heads_that_do_not_divide_are_named():
    assert any("multiple of 5 key-value" in p for p in problems(LLAMA | {"num_key_value_heads": 5}))
    uneven = without(num_attention_heads=24, num_key_value_heads=24)
    assert any("not a multiple of 24 attention heads" in p for p in problems(uneven))


def test_more_chosen_experts_than_there_are_is_an_error():
    config = LLAMA | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 9}
    assert any("9 of 8 experts" in p for p in problems(config))


def test_a_list_shorter_than_the_layers_is_an_error():
    config = LLAMA | {"layer_types": ["full_attention"] * 31}
    assert any("31 entries for 32 layers" in p for p in problems(config))


@pytest.mark.parametrize("content", [[], "llama", None, 3])
def test_content_that_is_no_object_is_an_error(content):
    with pytest.raises(SpecError):
        read(content)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**30},
        {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": 1}},
        {"quantization_config": {"quant_algo": "FP8", "config_groups": "x"}},
        {"layer_types": 3},
    ],
)  # fmt: skip
def test_damage_inside_is_an_error_of_the_file_and_not_of_the_program(change):
    assert problems(LLAMA | change)


def test_a_pattern_of_unknown_letters_is_an_error():
    config = {
        "model_type": "nemotron_h", "hidden_size": 64, "vocab_size": 100, "num_hidden_layers": 2,
        "intermediate_size": 64, "hybrid_override_pattern": "MX", "num_attention_heads": 4,
        "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 16,
        "conv_kernel": 4,
    }  # fmt: skip
    assert any("'X'" in p for p in problems(config))


def test_the_reader_stays_light():
    """Start-up of every command passes here: nothing heavy may be imported."""
    import subprocess
    import sys

    code = (
        "import sys, forerun.spec.hf; "
        "print([m for m in ('numba', 'polars', 'pandas', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_source_and_path_are_kept(tmp_path: Path):
    model = read_config(LLAMA, name="mine", source=str(tmp_path / "config.json"))
    assert model.name == "mine"
    assert model.source.endswith("config.json")
