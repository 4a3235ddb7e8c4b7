"""Rows of `forerun predict serving`: what they say, what is refused, and laws of the answers."""

import csv
import io

import numpy as np
import pytest

from forerun import catalog
from forerun.api._serving import OUT, predict_serving
from forerun.cost.engine_profile import engines, profile
from forerun.errors import ForerunError
from forerun.ops.precision import formats
from forerun.serving.answer import answer
from forerun.serving.apart import queued_s
from forerun.serving.question import question
from forerun.spec.columns import Columns, read_columns

ROW = {
    "model": "llama-3.1-8b", "device": "h100-sxm", "runtime": "vllm", "isl": "1024", "osl": "64",
    "concurrency": "8",
}  # fmt: skip


def ask(**more):
    return answer(question({**ROW, **more}))


def refusal(**more):
    with pytest.raises(ForerunError) as caught:
        question({**ROW, **more})
    return str(caught.value)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"model": ""}, "model: is not given"),
        ({"model": "llama-9"}, "is not in the catalog"),
        ({"device": ""}, "device: is not given"),
        ({"device": "h101"}, "did you mean"),
        ({"isl": ""}, "isl, osl: must be given"),
        ({"osl": "many"}, "'many' is not a number"),
        ({"tp": "1.5"}, "is not a whole number"),
        ({"concurrency": "-3"}, "negative"),
        ({"dtype": "fp9"}, "'fp9' is not known"),
        ({"mode": "both"}, "neither agg nor disagg"),
        ({"mode": "disagg"}, "prefill_replicas: is not given"),
        ({"spec_tokens": "3"}, "speculation is not simulated yet"),
        ({"tp": "3"}, "has no experts to spread"),
        ({"isl": "200000"}, "more than the 131,072 of llama-3.1-8b's context"),
        ({"isl": "1e30"}, "isl: 1e+30 is more than the 4,194,304 that a row may have"),
        ({"tp": "inf"}, "tp: inf is not a count"),
        ({"tp": "6", "dp_attention": "4"}, "6 devices do not make 4 groups of attention"),
        ({"concurrency": "nan"}, "nan is negative or no number"),
        ({"concurrency": "", "rate_per_s": "0"}, "0 sends no request"),
        ({"concurrency": "", "rate_per_s": "1e-9"}, "come over more than 30 days"),
        ({"kv_dtype": "fp9"}, "kv_dtype: 'fp9' is not known"),
        ({"moe_dtype": "fp9"}, "moe_dtype: 'fp9' is not known"),
        ({"concurrency": "900000"}, "n_requests: 9,000,000 is more than"),
        ({"max_tokens_per_step": "1e9"}, "max_tokens_per_step: 1,000,000,000 is more than"),
        ({"max_batch": "90000", "concurrency": ""}, "max_batch: 90,000 is more than"),
    ],
)
def test_a_row_that_cannot_be_answered_says_why(cells, said):
    assert said in refusal(**cells)


NASTY = ("inf", "-inf", "-1", "1e30", "1e-30", "nan", "", "abc", "0", "0.5", "1" * 400, "\u0664",
         "\u00bd", "1_0", "\u221e", "x" * 500, "None", "0x10", "a\tb; 'c", "\u540d")  # fmt: skip
COLUMNS = (
    "model", "device", "runtime", "runtime_version", "dtype", "kv_dtype", "moe_dtype", "mode",
    "isl", "osl", "concurrency", "rate_per_s", "n_requests", "tp", "pp", "dp_attention", "moe_tp",
    "moe_ep", "max_batch", "max_tokens_per_step", "prefix_len", "spec_tokens", "spec_acceptance",
    *(f"{phase}_{name}" for phase in ("prefill", "decode")
      for name in ("tp", "pp", "dp", "moe_tp", "moe_ep", "replicas", "batch")),
)  # fmt: skip
APART = {"mode": "disagg", "prefill_replicas": "1", "decode_replicas": "1"}


@pytest.mark.parametrize("column", COLUMNS)
def test_no_cell_of_any_column_ends_a_batch(column):
    base = APART if column.startswith(("prefill_", "decode_")) else {}
    moe = {"model": "gpt-oss-20b"} if "moe" in column else {}
    # an engine nobody knows is priced anew each time, so a few do
    nasty = NASTY[::4] if column.startswith("runtime") else NASTY
    rows = [{**ROW, "osl": "2", "concurrency": "2", **base, **moe, column: cell} for cell in nasty]
    if column in ("rate_per_s", "n_requests"):
        rows = [{**row, "concurrency": ""} for row in rows]
    cells = {name: np.array([row.get(name, "") for row in rows], object) for name in COLUMNS}
    out = predict_serving(Columns(COLUMNS, cells, len(rows)))
    for i, cell in enumerate(nasty):
        said = out["refused"][i]
        assert bool(said) != bool(np.isfinite(out["e2el_s"][i])), (column, cell, said)
        assert len(said) < 700, cell
        assert "\n" not in said, cell
        if said:
            assert ": " in said, cell


def test_a_file_of_nasty_cells_is_answered_row_by_row(run, tmp_path):
    columns = ("isl", "tp", "kv_dtype", "prefill_replicas", "concurrency", "model")
    rows = [{**ROW, "osl": "2", **APART, c: cell} for c in columns for cell in NASTY]
    source, answers = tmp_path / "nasty.csv", tmp_path / "answers.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*ROW, *APART, "tp", "kv_dtype"])
        writer.writeheader()
        writer.writerows(rows)
    done = run("predict", "serving", str(source), "-o", str(answers))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    with answers.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    assert all(bool(row["refused"]) != bool(row["ttft_s"]) for row in read)
    assert sum(bool(row["refused"]) for row in read) > 0.6 * len(rows)


def test_columns_that_change_nothing_are_named():
    told = "; ".join(
        question({**ROW, "prefill_tp": "2", "spec_acceptance": "0.7", "moe_dtype": "fp8",
                  "moe_tp": "4", "rate_per_s": "3"}).assumed
    )  # fmt: skip
    assert "prefill_tp say nothing of mode agg" in told
    assert "spec_acceptance says nothing without spec_tokens" in told
    assert "moe_dtype fp8 says nothing of llama-3.1-8b, which has no experts" in told
    assert "moe_tp says nothing of llama-3.1-8b" in told
    assert "rate_per_s is not used" in told
    q = question({**ROW, **APART, "tp": "4"})
    assert any("tp say nothing of mode disagg" in a for a in q.assumed)


def test_the_width_of_a_replica_with_groups_of_attention_is_said():
    q = question({**ROW, "model": "deepseek-r1", "device": "gb200", "tp": "8",
                  "dp_attention": "4"})  # fmt: skip
    assert (q.pools[0].tp, q.pools[0].dp) == (2, 4)
    said = "tp 8 with dp_attention 4 is read as 8 devices a replica, 4 groups of attention of 2"
    assert any(said in a for a in q.assumed)


def test_experts_take_the_format_and_the_cut_that_a_row_gives():
    moe = {**ROW, "model": "qwen3-30b-a3b", "tp": "4"}
    both, narrow = question(moe), question({**moe, "moe_dtype": "fp8"})
    assert dict(narrow.model.quantization.by_part) == {"experts": "fp8"}
    assert narrow.pools[0].dtype is None
    assert answer(narrow).hbm_bytes < 0.75 * answer(both).hbm_bytes
    assert question({**moe, "moe_tp": "2"}).pools[0].ep == 2
    assert question({**moe, "moe_tp": "4"}).pools[0].ep == 1
    q = question({**moe, "moe_tp": "1", "moe_ep": "2"})
    assert any("cut over 2 devices, which moe_tp 1 contradicts" in a for a in q.assumed)


def test_a_pool_of_its_own_computes_as_many_sequences_as_its_batch():
    apart = {**ROW, **APART, "concurrency": "64", "isl": "2048"}
    # prompts come so fast that about 16 decode at once, where nothing bounds them
    q = question({**apart, "prefill_batch": "1", "decode_batch": "4"})
    assert [p.engine.max_num_seqs for p in q.pools] == [1, 4]
    wide, narrow = answer(question(apart)), answer(q)
    assert narrow.seconds["tpot_s"] < wide.seconds["tpot_s"]


def test_a_request_longer_than_the_cache_is_refused():
    row = {**ROW, "device": "l4", "isl": "60000", "osl": "100"}
    with pytest.raises(ForerunError, match="tokens of one request do not fit"):
        answer(question(row))


def test_what_is_not_given_is_named():
    q = question({k: v for k, v in ROW.items() if k not in ("runtime", "concurrency")})
    told = "; ".join(q.assumed)
    assert "no runtime has no profile" in told
    assert "a batch of 1 that comes at once" in told
    assert "tokens a step" in told
    assert (q.n_requests, q.concurrency, q.rate_per_s) == (1, None, float("inf"))


def test_a_quantised_copy_stands_for_the_model_it_was_made_from():
    q = question({**ROW, "model": "nvidia/Qwen3-32B-NVFP4", "dtype": "nvfp4", "device": "gb200"})
    assert q.model.name == "qwen3-32b"
    assert q.pools[0].dtype == "nvfp4"
    assert any("is taken to be qwen3-32b" in a for a in q.assumed)


def test_a_checkpoint_keeps_its_own_format_where_the_asked_one_is_no_narrower():
    for asked, model in (
        ("fp8", "deepseek-v3"),
        ("nvfp4", "gpt-oss-120b"),
        ("bf16", "minimax-m2.5"),
    ):
        pool = question({**ROW, "model": model, "dtype": asked, "tp": "8"}).pools[0]
        assert pool.dtype is None, model
    assert question({**ROW, "dtype": "fp8"}).pools[0].dtype == "fp8"


def test_a_copy_in_other_four_bits_keeps_what_the_checkpoint_keeps():
    # nvidia/Kimi-K2.5-NVFP4 is made from the int4 checkpoint, experts alone
    row = {**ROW, "model": "kimi-k2.5", "device": "gb200", "tp": "8"}
    q = question({**row, "dtype": "nvfp4", "moe_dtype": "nvfp4"})
    assert q.pools[0].dtype == "nvfp4"
    found = formats(q.model, q.pools[0])
    assert (found.of("experts"), found.of("attention"), found.of("shared_experts")) == (
        "nvfp4", "bf16", "bf16",
    )  # fmt: skip
    # without a word, or asked for more bits than there are, it stays as it was stored
    for asked in ("", "int4_wo", "fp8"):
        stored = question({**row, "dtype": asked})
        assert formats(stored.model, stored.pools[0]).of("experts") == "int4_wo"


def test_latent_attention_stays_wide_in_nvfp4_and_grouped_attention_does_not():
    for model, attention in (("deepseek-v3", "bf16"), ("qwen3-32b", "nvfp4")):
        q = question({**ROW, "model": model, "device": "gb200", "tp": "8", "dtype": "nvfp4"})
        found = formats(q.model, q.pools[0])
        assert (found.of("attention"), found.of("dense")) == (attention, "nvfp4")


def test_a_layout_no_kernel_can_have_is_spread_by_attention_groups():
    q = question({**ROW, "model": "deepseek-r1", "device": "gb200", "tp": "72"})
    pool = q.pools[0]
    assert (pool.tp, pool.dp, pool.ep, pool.redundant_experts) == (1, 72, 72, 32)
    assert any("cannot be cut 72 ways" in a for a in q.assumed)


@pytest.mark.parametrize("engine", engines())
def test_every_engine_answers_with_ordered_ends_and_what_it_rests_on(engine):
    a = ask(runtime=engine)
    for name, value in a.seconds.items():
        assert 0 < a.low[name] < value < a.high[name], name
    for figure in ("ttft_s", "tpot_s", "e2el_s"):
        s = a.seconds
        assert s[f"{figure}_p50"] <= s[f"{figure}_p90"] <= s[f"{figure}_p99"]
    assert a.seconds["e2el_s"] > a.seconds["ttft_s"] + 60 * a.seconds["tpot_s"]
    assert profile(engine).rows > 100
    assert f"{engine} profile of" in a.source
    assert a.output_tokens_per_s_per_gpu == a.output_tokens_per_s
    assert a.energy_j_per_token > 0
    assert a.usd_per_mtok > 0


def test_more_in_flight_give_more_tokens_a_second_and_slower_ones():
    few, many = ask(concurrency="4"), ask(concurrency="64")
    assert many.output_tokens_per_s > 3 * few.output_tokens_per_s
    assert many.seconds["tpot_s"] > few.seconds["tpot_s"]
    assert many.seconds["ttft_s"] > few.seconds["ttft_s"]


def test_throughput_is_littles_law():
    a = ask(concurrency="32", n_requests="1600")
    whole = a.seconds["e2el_s"]
    # the loop drains at its end, so a little less than all clients are at work on average
    assert 32 / whole * 64 == pytest.approx(a.output_tokens_per_s, rel=0.06)


def test_a_slower_rate_waits_less():
    slow, fast = ask(concurrency="", rate_per_s="1"), ask(concurrency="", rate_per_s="20")
    assert slow.seconds["ttft_s"] < fast.seconds["ttft_s"]
    assert slow.output_tokens_per_s == pytest.approx(64, rel=0.15)


def test_prompts_that_a_pool_of_their_own_computes_do_not_slow_answers():
    apart = {
        "mode": "disagg", "prefill_tp": "1", "decode_tp": "1", "prefill_replicas": "2",
        "decode_replicas": "1", "concurrency": "16", "isl": "4096",
    }  # fmt: skip
    a, together = ask(**apart), ask(concurrency="16", isl="4096")
    assert a.seconds["tpot_s"] < 0.7 * together.seconds["tpot_s"]
    assert a.n_devices == 3
    assert a.energy_j_per_token > together.energy_j_per_token  # three devices for one's work
    # half the prefill workers: never sooner
    one = ask(**{**apart, "prefill_replicas": "1"})
    assert one.seconds["ttft_s"] > a.seconds["ttft_s"]


def test_an_api_server_that_takes_longer_than_the_engine_is_waited_for():
    known = profile("vllm").model_copy(update={"api_request_s": 0.0, "api_token_s": 0.0})
    slow = known.model_copy(update={"api_token_s": 1e-3})
    row = {**ROW, "concurrency": "64"}
    free, bound = (answer(question(row, p)) for p in (known, slow))
    # 64 clients, 64 tokens of 1 ms each: a round takes 4.1 s at least
    assert bound.seconds["e2el_s"] == pytest.approx(64 * 64 * 1e-3, rel=0.1)
    assert bound.seconds["ttft_s"] > 10 * free.seconds["ttft_s"]
    assert bound.seconds["tpot_s"] <= free.seconds["tpot_s"]


def test_an_api_server_is_waited_for_before_prompts_of_a_pool_of_their_own():
    known = profile("vllm").model_copy(update={"api_request_s": 0.0, "api_token_s": 0.0})
    row = {**ROW, **APART, "concurrency": "64"}
    free = answer(question(row, known))
    late = answer(question(row, known.model_copy(update={"api_request_s": 5e-3})))
    assert late.seconds["ttft_s"] == pytest.approx(free.seconds["ttft_s"] + 5e-3, rel=0.02)
    bound = answer(question(row, known.model_copy(update={"api_token_s": 1e-3})))
    # 64 clients, 64 tokens of 1 ms each: a round takes 4.1 s at least
    assert bound.seconds["e2el_s"] == pytest.approx(64 * 64 * 1e-3, rel=0.1)


def apart(**more):
    return answer(question({**ROW, **APART, "isl": "2048", "osl": "256", **more}))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_who_finds_no_seat_in_the_decode_pool_waits_for_one_before_its_first_token(batch):
    free, full = apart(concurrency="32"), apart(concurrency="32", decode_batch=str(batch))
    hold_s = profile("vllm").transfer_s + 256 * full.seconds["tpot_s"]
    # 32 clients take turns on the seats, each of which is kept for the hand-over and the answer
    assert full.seconds["e2el_s"] == pytest.approx(32 / batch * hold_s, rel=0.03)
    assert full.output_tokens_per_s == pytest.approx(256 * batch / hold_s, rel=0.03)
    assert full.seconds["tpot_s"] < free.seconds["tpot_s"]
    assert full.seconds["ttft_s"] > 4 * free.seconds["ttft_s"]
    assert (free.bound, full.bound) == ("HBM bandwidth", "seats")
    assert apart(concurrency="32", decode_batch="32").seconds == free.seconds


def test_who_waits_for_a_seat_does_not_wait_for_the_api_server_as_well():
    known = profile("vllm")
    # one request takes the server 0.35 s: 32 of them 11 s a round, when seats alone take 14 and 3
    busy = known.model_copy(update={"api_token_s": 0.35 / 256, "api_request_s": 0.0})
    row = {**ROW, **APART, "isl": "2048", "osl": "256", "concurrency": "32"}
    few, many = (answer(question({**row, "decode_batch": n}, busy)) for n in ("4", "32"))
    hold_s = busy.transfer_s + 256 * few.seconds["tpot_s"]
    assert few.seconds["e2el_s"] == pytest.approx(32 / 4 * hold_s, rel=0.03)
    assert many.seconds["e2el_s"] == pytest.approx(32 * 0.35, rel=0.03)


@pytest.mark.parametrize("cells", [APART, {}], ids=["pools apart", "one pool"])
@pytest.mark.parametrize("concurrency", ["1", "32"])
@pytest.mark.parametrize("osl", ["4", "256"])
def test_a_client_waits_for_its_answer_before_it_asks_again(cells, concurrency, osl):
    # of an engine whose API server takes longest with a request
    row = {**ROW, **cells, "runtime": "trtllm", "concurrency": concurrency, "osl": osl}
    a = answer(question(row))
    # Little's law: each client gets an answer a round; the last of ten rounds is not full
    round_s = int(concurrency) * int(osl) / a.output_tokens_per_s
    assert round_s == pytest.approx(a.seconds["e2el_s"], rel=0.05)


def test_a_decode_pool_holds_as_many_as_its_cache_does():
    long = {"isl": "30000", "concurrency": "400", "prefill_replicas": "60"}
    few, many = apart(**long), apart(**long, decode_replicas="60")
    assert (few.bound, many.bound) == ("KV cache", "HBM bandwidth")
    assert few.seconds["ttft_s"] > 10 * many.seconds["ttft_s"]
    assert few.output_tokens_per_s < many.output_tokens_per_s / 10


def test_under_open_load_requests_wait_for_a_seat_first_come_first_served():
    free, full = (
        apart(concurrency="", rate_per_s="inf", n_requests="8", decode_batch=batch)
        for batch in ("8", "2")
    )
    hold_s = profile("vllm").transfer_s + 256 * full.seconds["tpot_s"]
    # two at a time: the last of eight starts when six have ended, whose prompts came a bit later
    later = full.seconds["ttft_s_p99"] - free.seconds["ttft_s_p50"]
    assert 2.5 * hold_s < later < 3.2 * hold_s
    assert free.seconds["ttft_s_p99"] < 0.5 * hold_s
    assert full.output_tokens_per_s == pytest.approx(256 * 2 / hold_s, rel=0.1)


def test_turns_for_seats_by_hand():
    rows = np.zeros(5, [("done_ps", "i8")])
    rows["done_ps"] = np.array([3, 0, 1, 2, 30]) * 10**12
    # in order of 0, 1, 2, 3 and 30 s, two seats for 5 s each: they start at 0, 1, 5, 6, 30
    assert queued_s(rows, 2, 5.0).tolist() == [3, 0, 0, 3, 0]
    assert queued_s(rows, 9, 5.0).tolist() == [0] * 5


def test_energy_of_pools_of_their_own_is_idle_power_and_the_work_of_both():
    a = answer(question({**ROW, **APART, "concurrency": "16"}))
    b = answer(question({**ROW, **APART, "concurrency": "16", "decode_replicas": "8"}))
    device = catalog.device("h100-sxm")
    power = a.energy_j_per_token * a.output_tokens_per_s
    assert 2 * 50 < power < 2 * device.tdp_w
    assert b.energy_j_per_token > a.energy_j_per_token  # devices that idle


@pytest.mark.parametrize("more", [{}, {"concurrency": "16"}, {**APART, "concurrency": "16"}])
def test_latencies_do_not_depend_on_whether_energy_is_asked_for(more):
    q = question({**ROW, **more})
    told, bare = answer(q), answer(q, energy=False)
    assert told.energy_j_per_token is not None
    assert bare.seconds == told.seconds
    assert bare.output_tokens_per_s == told.output_tokens_per_s


def test_a_table_comes_back_with_every_column_of_the_contract(tmp_path):
    source = tmp_path / "q.csv"
    rows = [
        {**ROW, "row_id": "a", "ttft_s": "0.1", "mine": "x"},
        {**ROW, "row_id": "b", "model": "", "ttft_s": "", "mine": ""},
        {**ROW, "row_id": "c", "model": "qwen3-32b", "device": "t4", "ttft_s": "", "mine": ""},
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    source.write_text(text.getvalue())
    out = predict_serving(read_columns(source))
    assert list(out)[-len(OUT) :] == list(OUT)
    assert list(out["row_id"]) == ["a", "b", "c"]
    assert list(out["mine"]) == ["x", "", ""]
    assert list(out["given_ttft_s"]) == ["0.1", "", ""]
    assert np.isfinite(out["ttft_s"][0])
    assert np.isnan(out["ttft_s"][1:].astype(float)).all()
    assert list(out["fits"]) == ["yes", "", "no"]
    assert out["refused"][0] == ""
    assert "model: is not given" in out["refused"][1]
    assert "try:" in out["refused"][2]
    assert "\n" not in out["refused"][2]


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize(("batch", "isl", "osl"), [(1, 1024, 64), (16, 2000, 300), (64, 512, 500)])
def test_a_batch_that_is_alone_is_answered_as_its_simulation(monkeypatch, engine, batch, isl, osl):
    from forerun.serving import answer as module

    known = profile(engine).model_copy(update={"early": 0.0})
    row = {**ROW, "concurrency": "", "max_batch": str(batch), "isl": str(isl), "osl": str(osl)}
    q = question({**row, "runtime": engine}, known)
    closed = answer(q)
    monkeypatch.setattr(module, "_alone", lambda *_: None)
    simulated = answer(q)
    for name, value in simulated.seconds.items():
        assert closed.seconds[name] == pytest.approx(value, rel=0.02 if "_p" in name else 0.01), (
            name
        )
    assert closed.energy_j_per_token == pytest.approx(simulated.energy_j_per_token, rel=0.1)
