"""Speculation in descriptions, memory and costs: what a draft takes, what verifying takes."""

from __future__ import annotations

import numpy as np
import pytest

import forerun
from forerun import catalog
from forerun.cost.memory import measure
from forerun.cost.verify import queries_up_to, with_queries
from forerun.errors import ForerunError, SpecError
from forerun.ops.attention import Attention
from forerun.sim import drafts
from forerun.sim.prepare import prepare
from forerun.sim.speculation import quantiles
from forerun.spec.deployment import Deployment, Engine, Pool
from forerun.spec.speculation import Acceptance, Speculation

TARGET = "llama-3.1-8b"


def served(target=TARGET, where="h100-sxm", tp=1, **said):
    engine = {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "max_model_len": 4096}
    if said:
        engine["speculation"] = {"kind": "draft", "acceptance": 0.7, **said}
    pool = Pool(device=where, tp=tp, engine=Engine(**engine))
    return prepare(catalog.model(target), Deployment(pools=(pool,)))[0]


def case(**said):
    return {
        "model": TARGET, "fleet": {"h100-sxm": 1, "l4": 1}, "seed": 3,
        "traffic": {"concurrency": 2, "n_requests": 6, "isl": 100, "osl": 60},
        "deployment": {
            "device": "h100-sxm",
            "engine": {"speculation": {"kind": "draft", "acceptance": 0.7, **said}},
        },
    }  # fmt: skip


def test_a_draft_takes_memory_of_the_same_device_for_weights_and_cache():
    plain, drafted = served(), served(draft="llama-3.2-1b")
    draft, target = catalog.model("llama-3.2-1b"), catalog.model(TARGET)
    a_token = 2 * 2 * 8 * (32 * 128 + 16 * 64)  # K and V, bf16, 8 heads, both models' layers
    pool = Pool(device="h100-sxm")
    weights = measure(draft, pool, catalog.device("h100-sxm")).weights_bytes
    before = plain.n_blocks * 16 * 2 * 2 * 8 * 32 * 128
    assert drafted.n_blocks * 16 * a_token == pytest.approx(before - weights, rel=1e-3)
    assert drafted.kv_token_bytes == a_token
    assert target.vocab == draft.vocab


def test_an_n_gram_takes_no_memory_and_heads_take_little():
    plain = served().n_blocks
    assert served(kind="ngram").n_blocks == plain
    assert served(draft="llama-3.2-1b").n_blocks < served(kind="heads").n_blocks < plain


def test_a_draft_elsewhere_takes_memory_there():
    plain, apart = served(), served(draft="llama-3.2-1b", device="l4")
    assert apart.n_blocks <= plain.n_blocks
    assert apart.table.draft_apart
    assert apart.table.n_devices == 2
    assert apart.table.idle_w > plain.table.idle_w
    assert apart.draft.trip_s > 0


def test_nothing_proposed_prices_and_holds_what_was_there_before():
    plain, never = served(), served(kind="ngram", k=0)
    assert never.n_blocks == plain.n_blocks
    assert never.draft is None
    assert never.table.verify is None
    for part in ("tokens", "seqs", "decode", "prefill"):
        np.testing.assert_array_equal(
            getattr(never.table.time_s, part), getattr(plain.table.time_s, part)
        )


def test_verifying_reads_the_cache_once_and_computes_every_query():
    shape = Attention(32, 8, 128, 128)
    one, four = shape.decode(8, 1000.0), with_queries(shape, 4).decode(8, 1000.0)
    assert four.flop == 4 * one.flop
    assert four.kv_bytes == one.kv_bytes


def verify_ctx(target, device):
    return served(target, device, kind="ngram", k=7).table.knots_ctx[1:].astype(float)


@pytest.mark.parametrize(
    ("target", "tp", "device"),
    [(TARGET, 1, "h100-sxm"), ("qwen3-30b-a3b", 1, "h100-sxm"), ("deepseek-v2-lite", 1, "mi300x")],
)
def test_attention_of_more_queries_never_takes_less_and_never_more_than_each_alone(
    target, tp, device
):
    verify = served(target, device, tp, kind="ngram", k=7).table.verify
    assert verify.queries.tolist() == [1, 2, 4, 8]
    for name, least in (("time_s", 1.0), ("flop", 1.9)):
        ratio = verify.decode[name][:, 1:, 1:]
        assert (ratio[0] == 1).all()
        assert (np.diff(ratio, axis=0) >= 0).all()
        assert (ratio[1] >= least).all()
        ctx = verify_ctx(target, device)
        assert (ratio[3] <= 8.001 * (ctx + 7) / ctx).all()  # each query sees 7 keys more at most
    assert verify.decode["hbm_bytes"][3, 64, -1] < 1.2


def test_a_chain_of_scans_is_computed_query_by_query():
    verify = served("granite-4.0-h-small", tp=2, kind="ngram", k=3).table.verify
    assert (verify.decode["time_s"][2, 1:, 0] > 1.5).all()


def test_queries_reach_what_is_asked():
    assert queries_up_to(1).tolist() == [1, 2]
    assert queries_up_to(5).tolist() == [1, 2, 4, 8]


def test_verifying_never_takes_less_than_the_step_without():
    """The LM head at every proposed token: the part `seqs` goes on growing beyond max_num_seqs."""
    table = served(kind="ngram", k=7).table
    long = table.verify.seqs_of("time_s", table.time_s.seqs)
    np.testing.assert_array_equal(long[: len(table.time_s.seqs)], table.time_s.seqs)
    assert (np.diff(long) >= 0).all()
    assert table.verify.max_sampled == 512


def test_a_case_says_what_proposals_gave_and_took():
    result = forerun.simulate(forerun.load(case(draft="llama-3.2-1b")), bootstrap=False)
    assert any(r.startswith("Speculation:") for r in result.reasons)
    assert any("proposes on h100-sxm beside the target" in a for a in result.provenance["assumed"])
    assert "draft llama-3.2-1b, up to 3 tokens, fixed policy" in str(result)
    assert result.metrics.itl_s.n == (result.log.requests["n_out"] - 1).sum()


def test_energy_counts_the_draft_and_rejected_tokens():
    def joule(**said):
        one = forerun.simulate(forerun.load(case(**said)), bootstrap=False)
        return one.metrics.energy_j.value - one.log.tables[0].idle_w * one.metrics.duration_s

    nothing = joule(kind="ngram", k=0)
    wrong = joule(kind="ngram", acceptance=0.0)
    drafted = joule(draft="llama-3.2-1b", acceptance=0.0)
    apart = joule(draft="llama-3.2-1b", acceptance=0.0, device="l4")
    assert nothing < wrong < min(drafted, apart)


def test_a_case_with_speculation_is_read_again_as_it_was():
    read = forerun.load(case(draft="llama-3.2-1b", acceptance=[0.8, 0.6], k=2))
    engine = read.deployment.pools[0].engine
    assert Engine.model_validate(engine.model_dump(mode="json")) == engine
    assert "speculation" not in Engine().model_dump()  # what is not said is not written


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"acceptance": 1.2}, "must be at most 1"),
        ({"acceptance": -0.1}, "must be at least 0"),
        ({"acceptance": {}}, "says nothing; give one of"),
        ({"acceptance": {"alpha": 0.5, "beta": [1, 2]}}, "says alpha and beta"),
        ({"acceptance": []}, "is empty"),
        ({}, "has no draft model"),
        ({"draft": "gpt2"}, "has a vocabulary of 50257 tokens, llama-3.1-8b of 128256"),
        ({"draft": "llama-3.2-1c"}, "not in the catalog"),
        ({"draft": "llama-3.2-1b", "k": 8192}, "8192 proposed tokens and the next one do not fit"),
        ({"draft": "llama-3.2-1b", "device": "l40s"}, "l40s is not in the fleet"),
        ({"draft": "llama-3.1-70b"}, "does not fit beside the target on h100-sxm"),
        ({"draft": "llama-3.1-70b", "device": "l4"}, "does not fit on 1 x l4"),
        ({"kind": "heads", "draft": "llama-3.2-1b"}, "heads takes no draft model"),
        ({"kind": "ngram", "tree": [2, 2]}, "an n-gram proposes one row"),
        ({"draft": "llama-3.2-1b", "tree": [2, 2], "k": 3}, "k 3 is deeper than the tree"),
    ],
)
def test_bad_input_is_a_sentence_before_the_run(said, sentence):
    with pytest.raises(ForerunError, match=sentence):
        forerun.simulate(forerun.load(case(**said)), bootstrap=False)


def test_a_tree_has_all_branches_at_all_nodes():
    said = Speculation(kind="heads", tree=(3, 2, 1), acceptance=Acceptance(alpha=0.6))
    assert said.levels == (1, 3, 6, 6)
    assert said.most == 3


def test_a_draft_elsewhere_needs_a_link():
    said = Speculation(kind="draft", draft="llama-3.2-1b", device="l4", acceptance=0.5)
    pool = Pool(device="h100-sxm", engine=Engine(speculation=said))
    alone = catalog.device("h100-sxm").model_copy(update={"network": None})
    with pytest.raises(SpecError, match="h100-sxm has no network"):
        drafts.proposing(pool, alone)


def test_chances_come_out_of_a_file(tmp_path):
    file = tmp_path / "chances.csv"
    file.write_text("request,acceptance\n0,0.2\n1,0.8\n")
    assert quantiles(Acceptance(file=str(file)))[[0, 2048, 4096]].tolist() == [0.2, 0.5, 0.8]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("alpha\n0.5\n", "has no column `acceptance`"),
        ("acceptance\n", "has no rows"),
        ("acceptance\n0.5\n1.5\n", "chances.csv:3: '1.5' is not a chance"),
        ("acceptance\nhigh\n", "chances.csv:2: 'high' is not a chance"),
        ("acceptance\nnan\n", "is not a chance"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_chances_is_told_by_its_line(tmp_path, text, sentence):
    file = tmp_path / "chances.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SpecError, match=sentence):
        quantiles(Acceptance(file=str(file)))
