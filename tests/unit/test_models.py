"""The catalog's models: counts against published figures, names, aliases and paths."""

import json

import pytest

from forerun.catalog import zoo
from forerun.errors import SpecError
from forerun.spec.model import Dense, Gqa, Layers, Linear, Mla, Model, Moe
from forerun.spec.params import count, mtp, parts, state_elements, weight_bytes

NAMES = zoo.models()


def counted_as_published(name):
    """The total in the way its maker counts; see `zoo.published`."""
    model, counts = zoo.model(name), zoo.published(name).get("published_counts", "all")
    total = count(model).total
    if counts == "decoder":
        return total - dict(count(model).by_part).get("vision", 0)
    if counts.startswith("with mtp"):
        return total + mtp(model, tables="tables" in counts)
    assert counts == "all"
    return total


@pytest.mark.parametrize("name", NAMES)
def test_total_agrees_with_the_published_figure(name):
    """Within 0.5 %, or to the digit that a rounded figure ("1.6T") states."""
    block = zoo.published(name)
    figure = block["published_params"]
    allowed = max(0.005 * figure, block.get("published_rounding", 0) / 2)
    assert counted_as_published(name) == pytest.approx(figure, abs=allowed)


def test_most_totals_agree_to_the_last_digit():
    """98 of them are stated exactly and met exactly; a wrong bias or norm anywhere breaks some."""
    exact = [n for n in NAMES if counted_as_published(n) == zoo.published(n)["published_params"]]
    stated = [n for n in NAMES if "published_rounding" not in zoo.published(n)]
    assert set(exact) >= set(stated)
    assert len(stated) >= 95


@pytest.mark.parametrize(
    "name", [n for n in NAMES if zoo.published(n).get("published_active_params")]
)
def test_active_parameters_agree_with_the_published_figure(name):
    """Makers count tables differently and round down at times: half the rounding and 2 %."""
    block, params = zoo.published(name), count(zoo.model(name))
    left_out = {
        "all": 0,
        "without embedding": params.embedding,
        "without tables": params.embedding + dict(params.by_part).get("lm_head", 0),
    }[block.get("published_active_counts", "all")]
    figure = block["published_active_params"]
    allowed = 0.02 * figure + block.get("published_active_rounding", 0) / 2
    assert params.active - left_out == pytest.approx(figure, abs=allowed)


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_where_it_is_from_and_leaves_little_open(name):
    block, model = zoo.published(name), zoo.model(name)
    assert block["published_params"] > 0
    assert len(block["source"]) > 10
    assert model.source == block["source"]
    assert [s for s in model.assumed if "in groups of 32" not in s] == []
    assert sum(n for _, n in count(model).by_part) == count(model).total
    assert weight_bytes(model) > 0


def test_entries_describe_what_the_makers_files_do(shared_data):
    """Entries hold a part of the file; what is read from them must be the same."""
    seen = 0
    for name in NAMES:
        hf_id = zoo.published(name)["hf_id"]
        file = shared_data / "hf_configs" / f"{str(hf_id).replace('/', '--')}.json"
        if not file.is_file() or name in ("step-3.7-flash",):  # that file lacks a head count
            continue
        theirs, ours = zoo.model(str(file)), zoo.model(name)
        same = ("layers", "hidden", "vocab", "max_len", "tied_embeddings", "quantization")
        if name == "glm-5-fp8":  # theirs lists norms, which no method quantises, one by one
            same = same[:-1]
        for field in same:
            assert getattr(ours, field) == getattr(theirs, field), (name, field)
        seen += 1
    assert seen >= 35


def test_the_families_asked_for_are_here():
    wanted = {
        "llama-2-7b", "llama-3-8b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b",
        "llama-3.2-1b", "llama-3.3-70b", "llama-4-scout", "llama-4-maverick", "mistral-7b",
        "mixtral-8x7b", "qwen2-7b", "qwen2.5-72b", "qwen3-8b", "qwen3-30b-a3b", "qwen3-235b-a22b",
        "qwen3-next-80b-a3b", "qwen3.5-27b", "qwen3.6-35b-a3b", "deepseek-v2", "deepseek-v3",
        "deepseek-r1", "deepseek-v3.2", "deepseek-v4-flash", "deepseek-v4-pro", "kimi-k2",
        "kimi-k2.5", "kimi-k3", "glm-4.5", "glm-5", "glm-5.1", "glm-5.2", "minimax-m1",
        "minimax-m2.5", "minimax-m3", "gpt-oss-20b", "gpt-oss-120b", "gemma-2-9b", "gemma-3-27b",
        "gemma-4-31b", "phi-3-mini", "phi-4", "opt-13b", "falcon-7b", "falcon-40b", "falcon-180b",
        "gpt-neox-20b", "gpt2", "bloom-176b", "mpt-7b", "codellama-34b", "yi-34b", "command-r",
        "command-r-plus", "nemotron-h-56b", "nemotron-3-nano-30b-a3b", "qwen2.5-vl-7b",
        "qwen3-vl-8b", "mimo-v2-flash", "step-3.7-flash",
    }  # fmt: skip
    assert wanted <= set(NAMES)


# ------------------------------------------------------------------------------ counts by hand


def test_a_small_decoder_is_counted_by_hand():
    """D = 8, V = 10, one layer: 2 heads of 4, 1 key-value head, gated feed-forward 16, untied.

    tables 2 * 80; q 64, k and v 32 each, o 64; feed-forward 3 * 8 * 16 = 384; norms 2 * 8 and 8.
    """
    layer = Layers(n=1, mixer=Gqa(n_heads=2, n_kv_heads=1, head_dim=4), ffn=Dense(inter=16))
    model = Model(name="m", hidden=8, vocab=10, layers=(layer,), source="by hand")
    assert count(model).total == 160 + 64 + 64 + 64 + 384 + 16 + 8
    assert count(model).active == count(model).total
    tied = model.model_copy(update={"tied_embeddings": True})
    assert count(model).total - count(tied).total == 80


def test_only_chosen_experts_are_active():
    """8 experts of 3 * 4 * 2 = 24, 2 chosen, a shared one of 3 * 4 * 6 = 72, router 4 * 8."""
    ffn = Moe(inter=2, n_experts=8, topk=2, n_shared=1, shared_inter=6)
    model = Model(
        name="m",
        hidden=4,
        vocab=1,
        layers=(Layers(n=3, ffn=ffn, norms=0),),
        final_norms=0,
        source="-",
    )
    assert count(model).total == 3 * (8 * 24 + 72 + 32) + 2 * 4
    assert count(model).active == 3 * (2 * 24 + 72 + 32) + 2 * 4


def test_latent_attention_of_deepseek_v3_is_counted_by_hand():
    """q 1536 * (7168 + 128 * 192) with its norm, kv down 7168 * 576 with its norm, up, out."""
    by_hand = (
        1536 * (7168 + 128 * 192) + 1536 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168
    )
    assert dict(count(zoo.model("deepseek-v3")).by_part)["attention"] == 61 * by_hand


def test_mtp_layers_are_never_in_the_count():
    model = zoo.model("deepseek-v3")
    assert model.mtp_layers == 1
    without = model.model_copy(update={"mtp_layers": 0})
    assert count(without) == count(model)
    assert mtp(without) == 0
    # 14B on the maker's card, with its copies of both tables
    assert mtp(model, tables=True) == pytest.approx(14e9, abs=0.6e9)


def test_states_have_a_size_and_no_cache():
    """Nemotron-H-56B: 256 heads of 64 by 256; Mla and Gqa have none."""
    net = next(r.mixer for r in zoo.model("nemotron-h-56b").layers if isinstance(r.mixer, Linear))
    assert state_elements(net) == 256 * 64 * 256
    mla = zoo.model("deepseek-v3").layers[0].mixer
    assert isinstance(mla, Mla)
    assert state_elements(mla) == 0


def test_checkpoints_have_the_published_size():
    """60.8 GiB and 12.8 GiB (arXiv 2508.10925, table 1): experts in 17/32 byte, the rest in 2."""
    assert weight_bytes(zoo.model("gpt-oss-120b")) / 2**30 == pytest.approx(60.8, abs=0.05)
    assert weight_bytes(zoo.model("gpt-oss-20b")) / 2**30 == pytest.approx(12.8, abs=0.05)


def test_parts_tell_what_stays_in_the_models_own_format():
    kept = {name: k for name, _, k in parts(zoo.model("gpt-oss-120b"))}
    assert not kept["experts"]
    assert kept["attention"]
    assert kept["embedding"]
    assert all(k for _, _, k in parts(zoo.model("llama-3.1-8b")))


# ------------------------------------------------------------------------------ names and paths


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("LLaMA-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen3-8B-Base", "qwen3-8b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("codellama/CodeLlama-34b-Instruct-hf", "codellama-34b"),
    ],
)
def test_models_answer_to_their_hugging_face_names(asked, name):
    assert zoo.model(asked).name == name


def test_every_model_answers_to_its_own_id():
    for name in NAMES:
        hf_id = zoo.published(name)["hf_id"]
        if hf_id:
            assert zoo.model(hf_id).hf_id == hf_id


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(SpecError, match=r"did you mean llama-3\.1-8b"):
        zoo.model("lama-3.1-8b")
    with pytest.raises(SpecError, match="not in the catalog"):
        zoo.model("nobody/nothing-at-all")
    with pytest.raises(SpecError, match="no name"):
        zoo.model("  ")


def test_a_file_and_its_folder_are_read(tmp_path):
    config = json.loads((zoo.FOLDER / "llama-3.1-8b.json").read_text())
    del config["forerun"]
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    expected = zoo.model("llama-3.1-8b").layers
    assert zoo.model(str(folder)).layers == expected
    assert zoo.model(str(folder / "config.json")).layers == expected
    assert zoo.model(str(folder)).name == "my-llama"


def test_formats_beside_the_file_are_read(tmp_path):
    config = json.loads((zoo.FOLDER / "llama-3.1-8b.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    stated = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
                               "exclude_modules": ["lm_head"]}}  # fmt: skip
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(stated))
    quant = zoo.model(str(tmp_path)).quantization
    assert (quant.weights, quant.kv) == ("nvfp4", "fp8")


def test_a_file_that_is_not_json_is_named_with_its_line(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"hidden_size": 8,\n oops}')
    with pytest.raises(SpecError, match=r"config\.json:2:\d+"):
        zoo.model(str(file))
    with pytest.raises(SpecError, match="no such file"):
        zoo.model(str(tmp_path / "absent.json"))
    file.unlink()
    with pytest.raises(SpecError, match="no such file"):
        zoo.model(str(tmp_path))


def test_a_direct_name_reads_one_file_once(monkeypatch):
    read = []
    original = zoo._load
    monkeypatch.setattr(zoo, "_load", lambda file: read.append(file.name) or original(file))
    zoo._catalog.cache_clear()
    first = zoo.model("qwen3-8b")
    assert read == ["qwen3-8b.json"]
    assert zoo.model("qwen3-8b") is first
    assert read == ["qwen3-8b.json"]


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "y" * 300 + ".json", "\0", "~no-one/x"])
def test_a_name_that_can_be_no_path_is_only_unknown(name):
    with pytest.raises(SpecError, match="is not in the catalog"):
        zoo.model(name)
