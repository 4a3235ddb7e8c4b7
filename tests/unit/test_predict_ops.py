"""`forerun predict ops`: the columns of the contract in, the same rows answered or refused out."""

import csv
import gzip
import io

import numpy as np
import polars
import pytest

from forerun import catalog
from forerun.api._ops import OUT, predict_ops
from forerun.cost.calibration import Calibration, Errors, Origin, Store, save, store
from forerun.cost.chosen import starting
from forerun.cost.families import families, family
from forerun.cost.rows import NUMBERS, TEXTS, rows
from forerun.cost.sheet import sheet
from forerun.spec.columns import Columns

#: every op of the contract with the columns it cannot do without, and sizes that fit one device
OPS = {
    "gemm": dict(m=512, n=4096, k=4096),
    "attention_prefill": dict(isl=2048, n_heads=32, n_kv_heads=8, head_dim=128),
    "attention_decode": dict(batch=16, past=4096, n_heads=32, n_kv_heads=8, head_dim=128),
    "mla_prefill": dict(isl=2048, n_heads=128),
    "mla_decode": dict(batch=16, past=4096, n_heads=128),
    "moe": dict(n_tokens=512, hidden=4096, inter=1536, topk=8, n_experts=128),
    "all_reduce": dict(n_gpus=4, bytes=2**24),
    "all_gather": dict(n_gpus=4, bytes=2**24),
    "reduce_scatter": dict(n_gpus=4, bytes=2**24),
    "all_to_all": dict(n_gpus=4, bytes=2**24),
}  # fmt: skip
CONTRACT_IN = (
    "device runtime op dtype kv_dtype m n k batch isl past n_heads n_kv_heads head_dim v_head_dim "
    "q_lora_rank kv_lora_rank rope_dim window n_tokens hidden inter topk n_experts moe_tp moe_ep "
    "distribution n_gpus n_nodes bytes impl graphs"
)
CONTRACT_OUT = "time_s low_s high_s flop hbm_bytes energy_j source assumed refused"


@pytest.fixture
def nothing(tmp_path):
    """No calibrations, so that answers do not depend on what ships."""
    return Store(tmp_path / "none")


@pytest.fixture
def ask(nothing):
    """Answers of rows given as dictionaries."""

    def call(*given, calibrations=None):
        names = tuple(dict.fromkeys(name for row in given for name in row))
        cells = {
            name: np.array([str(row.get(name, "")) for row in given], dtype=object)
            for name in names
        }  # fmt: skip
        return predict_ops(Columns(names, cells, len(given)), calibrations or nothing)

    return call


def row(op, **more):
    return dict(device="h100-sxm", op=op) | OPS.get(op, {}) | more


# -- the contract ----------------------------------------------------------------------------------


def test_every_column_of_the_contract_is_known():
    assert set(CONTRACT_IN.split()) <= {*NUMBERS, *TEXTS}
    assert list(OUT) == CONTRACT_OUT.split()


@pytest.mark.parametrize("op", OPS)
def test_every_op_of_the_contract_is_answered(ask, op):
    got = ask(row(op))
    assert got["refused"][0] == ""
    assert 0 < got["low_s"][0] <= got["time_s"][0] <= got["high_s"][0] < 1
    assert got["energy_j"][0] > 0
    assert got["hbm_bytes"][0] > 0
    assert (got["flop"][0] > 0) == (not op.startswith(("all_", "reduce_")))
    assert got["source"][0]


@pytest.mark.parametrize("op", OPS)
def test_more_work_takes_longer(ask, op):
    size = {"gemm": "m", "moe": "n_tokens"}.get(op, "bytes" if "n_gpus" in OPS[op] else "isl")
    size = "past" if op.endswith("decode") else size
    got = ask(*(row(op, **{size: OPS[op][size] * times}) for times in (1, 8, 64)))
    assert np.all(np.diff(got["time_s"]) > 0)


def test_flop_and_bytes_are_those_of_the_operator(ask):
    got = ask(row("gemm"), row("attention_decode"), row("attention_decode", kv_dtype="fp8"))
    assert got["flop"][0] == 2 * 512 * 4096 * 4096
    assert got["hbm_bytes"][0] == 2 * (512 * 4096 + 4096 * 4096 + 512 * 4096)
    assert got["flop"][1] == 4 * 16 * 4096 * 32 * 128
    keys_and_values = 2 * 16 * 4096 * 8 * 128
    assert got["hbm_bytes"][1] == pytest.approx(2 * keys_and_values, rel=0.01)
    assert got["hbm_bytes"][2] == pytest.approx(keys_and_values, rel=0.01)


def test_energy_lies_between_idle_and_the_whole_power(ask):
    got = ask(*(row(op) for op in OPS))
    watts = got["energy_j"] / got["time_s"]
    assert np.all((watts > 50) & (watts < 705))  # H100 SXM: 700 W


def test_columns_that_are_not_ours_are_copied_and_answers_come_last(ask):
    got = ask(row("gemm", row_id="a-7", note="keep me", measured_s="1e-4"))
    assert list(got)[-len(OUT) :] == list(OUT)
    assert got["row_id"][0] == "a-7"
    assert got["note"][0] == "keep me"
    assert got["measured_s"][0] == "1e-4"


def test_a_column_of_the_name_of_an_answer_is_kept_under_another(ask):
    got = ask(row("gemm", time_s="9", source="mine"))
    assert got["given_time_s"][0] == "9"
    assert got["given_source"][0] == "mine"
    assert got["time_s"][0] < 1


def test_rows_keep_their_order_whatever_their_ops_and_devices(ask):
    given = [row(op, device=d) for d in ("h100-sxm", "l4", "b200") for op in OPS]
    mixed = [given[i] for i in np.random.default_rng(0).permutation(len(given))]
    together = ask(*mixed)
    for i, alone in enumerate(mixed):
        if not together["refused"][i]:
            assert together["time_s"][i] == ask(alone)["time_s"][0]


# -- defaults, named -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_every_default_is_named_and_means_what_it_says(ask, op):
    got = ask(row(op))
    defaults = [part for part in got["assumed"][0].split("; ")[0].split(", ") if " = " in part]
    written = dict(part.split(" = ") for part in defaults)
    assert "dtype" in written
    same = ask(row(op, **written))
    assert same["time_s"][0] == got["time_s"][0]
    assert not any(f"{name} = " in same["assumed"][0] for name in written)


def test_an_empty_cell_is_not_given_beside_rows_that_give_it(ask):
    got = ask(row("gemm", dtype="fp8", batch=2), row("gemm"))
    assert "dtype" not in got["assumed"][0]
    assert got["assumed"][1].startswith("dtype = bf16, batch = 1")
    assert got["time_s"][1] == ask(row("gemm"))["time_s"][0]


def test_a_device_that_could_be_two_is_taken_for_one_and_that_is_said(ask):
    got = ask(row("gemm", device="A100_SXM"))
    assert "A100_SXM is taken to be a100-sxm-80gb" in got["assumed"][0]
    assert got["time_s"][0] == ask(row("gemm", device="a100-sxm-80gb"))["time_s"][0]


def test_names_are_read_as_people_write_them(ask):
    got = ask(row("gemm"), row("gemm", device="H100 SXM", dtype="BF16") | {"op": "GEMM"})
    assert got["time_s"][0] == got["time_s"][1]


# -- refused ---------------------------------------------------------------------------------------

REFUSED = {
    "op is not given; one of": dict(op=""),
    "op 'gem' is not known; did you mean gemm": dict(op="gem"),
    "no device is given": dict(device=""),
    "device 'h1000': is not in the catalog": dict(device="h1000"),
    "dtype 'bf17' is none of": dict(dtype="bf17"),
    "m must be given for gemm": dict(m=""),
    "m, k must be given for gemm": dict(m="", k=""),
    "m = 0: must be finite and at least 1": dict(m=0),
    "n = -4: must be finite and at least 1": dict(n=-4),
    "k = inf: must be finite": dict(k="inf"),
    "m: 'many' is not a number": dict(m="many"),
    "m: 'many' is not a number; n: 'x' is not a number": dict(m="many", n="x"),
    "batch = 0: must be finite and at least 1": dict(batch=0),
    "no finite time follows from these sizes": dict(m="1e308", n="1e308"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_row_that_cannot_be_answered_says_why_and_the_others_are_answered(ask, sentence):
    got = ask(row("gemm"), row("gemm") | REFUSED[sentence], row("gemm"))
    assert got["refused"][1].startswith(sentence)
    assert got["refused"][0] == got["refused"][2] == ""
    for name in ("time_s", "low_s", "high_s", "flop", "hbm_bytes", "energy_j"):
        assert np.isnan(got[name][1])
        assert np.isfinite(got[name][[0, 2]]).all()
    assert got["source"][1] == got["assumed"][1] == ""


CONTRADICTIONS = {
    "n_kv_heads = 64 is more than n_heads = 32": row("attention_decode", n_kv_heads=64),
    "topk = 200 is more than n_experts = 128": row("moe", topk=200),
    "n_nodes = 8 is more than n_gpus = 4": row("all_reduce", n_nodes=8),
    "kv_dtype 'fp9' is none of": row("attention_decode", kv_dtype="fp9"),
    "distribution 'zipf' is none of uniform": row("moe", distribution="zipf"),
    "distribution 'power_law_x' is none of": row("moe", distribution="power_law_x"),
    "past = -1: must be finite and not negative": row("attention_prefill", past=-1),
    "past must be given for attention_decode": row("attention_decode", past=""),
    "bytes must be given for all_gather": row("all_gather", bytes=""),
    "n_gpus, bytes must be given for all_reduce": dict(device="h100-sxm", op="all_reduce"),
}


@pytest.mark.parametrize("sentence", CONTRADICTIONS)
def test_columns_that_contradict_each_other_or_mean_nothing_are_refused(ask, sentence):
    assert ask(CONTRADICTIONS[sentence])["refused"][0].startswith(sentence)


@pytest.mark.parametrize("op", ["attention_decode", "mla_decode"])
def test_a_decode_step_whose_context_is_given_as_its_length_is_that_of_this_past(ask, op):
    got = ask(
        row(op, past=900, isl=""), row(op, past="", isl=900), row(op, past=900, isl=1),
        row(op, past="", isl=1),
    )  # fmt: skip
    assert got["time_s"][0] == got["time_s"][1] == got["time_s"][2]
    said = "past = isl: the query of a step is one token"
    assert [said in assumed for assumed in got["assumed"]] == [False, True, False, False]
    assert got["refused"][3].startswith(f"past must be given for {op}")


def test_columns_of_other_ops_are_not_looked_at(ask):
    got = ask(row("gemm", topk=-1, n_gpus=-1, past="-1", distribution="zipf"), row("gemm"))
    assert got["refused"].tolist() == ["", ""]
    assert got["time_s"][0] == got["time_s"][1]


@pytest.mark.parametrize("op", ["attention_decode", "attention_prefill"])
def test_a_negative_window_is_none_on_a_device_that_was_measured_too(ask, op):
    got = ask(*(row(op, runtime="vllm", window=w) for w in (0, -1, -5)), calibrations=store())
    for name in ("time_s", "low_s", "high_s", "assumed"):
        assert len(set(got[name].tolist())) == 1, name
    assert got["source"][0].startswith("fitted")


def test_a_collective_over_a_network_that_nobody_knows_has_no_time():
    x = rows(
        op=["all_reduce"] * 2, n_gpus=[8, 8], n_nodes=[1, 2], bytes=1e6, graphs=1, device="h100-sxm"
    )
    device = catalog.device("h100-sxm").model_copy(update={"network": None})
    s, module = sheet(x, {"h100-sxm": device}), family("collective")
    time_s = module.physics(x, s, starting(x, s, module))
    assert time_s[0] > 0
    assert np.isnan(time_s[1])


def test_a_window_of_minus_one_is_no_window(ask):
    got = ask(*(row("attention_decode", window=w) for w in (-1, 0, "", 512)))
    assert got["time_s"][0] == got["time_s"][1] == got["time_s"][2] > got["time_s"][3]


def test_a_device_without_a_link_says_that_it_has_none(ask):
    alone = next(
        d for d in map(catalog.device, catalog.devices())
        if not d.scale_up and not d.host_link
    )  # fmt: skip
    got = ask(row("all_reduce", device=alone.name))
    assert got["refused"][0] == f"{alone.name} has no link to another device on its data sheet"


def test_no_table_however_strange_raises_and_every_row_is_answered_or_refused(nothing):
    """300 tables of sizes and words of all kinds, with no calibration and with what ships."""
    rng = np.random.default_rng(0)
    ops = [op for name in families() for op in family(name).OPS]
    usual = ["", "1", "2", "8", "8", "64", "64", "512", "512", "512", "4096"]
    sizes = [*usual * 6, "0", "-1", "0.5", "1e308", "inf", "nan", "x", "7", "1e6"]
    words = {
        "device": ["h100-sxm", "h100", "l4", "mi300x", "xeon-8480plus", "", "nope", "h\t100"],
        "runtime": ["", "vllm 0.24.0", "nccl 2.29", "torch", "weird/--x", "²", "a|b"],
        "dtype": ["", "bf16", "bf16", "FP8", "int4_wo", "nvfp4", "zzz", "fp64", "int8"],
        "kv_dtype": ["", "", "fp8", "zz"], "impl": ["", "nccl", "custom", "a|b", "bmm"],
        "distribution": ["", "", "power_law_1.2", "zipf"],
    }  # fmt: skip
    told = {True: 0, False: 0}
    for trial in range(300):
        n = int(rng.integers(1, 12))
        cells = {"op": rng.choice(ops, n), "device": np.full(n, "h100-sxm")}
        cells |= {w: rng.choice(c, n) for w, c in words.items() if rng.random() < 0.6}
        cells |= {c: rng.choice(sizes, n) for c in NUMBERS if rng.random() < 0.9}
        cells = {name: np.array([str(v) for v in c], dtype=object) for name, c in cells.items()}
        got = predict_ops(Columns(tuple(cells), cells, n), None if trial % 3 == 0 else nothing)
        numbers = np.array([got[c] for c in OUT[:6]])
        for i in range(n):
            told[bool(got["refused"][i])] += 1
            if got["refused"][i]:
                assert np.isnan(numbers[:, i]).all()
                continue
            assert np.isfinite(numbers[:, i]).all()
            assert (numbers[:, i] >= 0).all()
            assert 0 < got["low_s"][i] <= got["time_s"][i] <= got["high_s"][i]
            assert got["source"][i]
    assert min(told.values()) > 300


# -- sources and intervals -------------------------------------------------------------------------


def _fitted(folder, **changes):
    module = family("gemm")
    given = dict(
        family="gemm", device="h100-sxm", engine="vllm", version="0.24.0", keys=("bf16|",),
        names=tuple(c.name for c in module.COEFS),
        coefs=np.array([[c.start for c in module.COEFS]]), ranges={"m": (1.0, 1024.0)},
        spread={r: (-0.1, 0.2) for r in ("under_20us", "bandwidth", "compute")},
        errors=Errors(9, 0.1, 0.2, "x"), origins=(Origin("t", "me", "MIT", 1234),), date="d",
    )  # fmt: skip
    save(Calibration(**given | changes), folder)
    return Store(folder)


def test_the_source_says_what_the_answer_comes_from(ask, tmp_path):
    store = _fitted(tmp_path, coefs=np.array([[1.01 * c.start for c in family("gemm").COEFS]]))
    got = ask(
        row("gemm", runtime="vllm 0.24.0"), row("gemm", runtime="vllm 0.9"), row("gemm"),
        row("gemm", runtime="sglang 0.5"), row("gemm", device="l4"), calibrations=store,
    )  # fmt: skip
    assert got["source"].tolist() == ["fitted: h100-sxm vllm 0.24.0, 1,234 rows"] * 4 + [
        "roofline with estimated efficiencies"
    ]
    assert "measured with vllm 0.24.0, not version 0.9" in got["assumed"][1]
    assert "runtime vllm 0.24.0" in got["assumed"][2]
    assert "was measured with vllm 0.24.0, not sglang" in got["assumed"][3]


def test_the_interval_is_the_one_that_was_measured_and_wider_outside_the_range(ask, tmp_path):
    store = _fitted(tmp_path)
    got = ask(*(row("gemm", runtime="vllm 0.24.0", m=m) for m in (512, 2048)), calibrations=store)
    low, high = got["low_s"] / got["time_s"], got["high_s"] / got["time_s"]
    assert low[0] == pytest.approx(np.exp(-0.1))
    assert high[0] == pytest.approx(np.exp(0.2))
    assert low[1] < low[0]
    assert high[1] > high[0]
    assert "outside the measured range" not in got["assumed"][0]
    assert got["assumed"][1].endswith("outside the measured range")


# -- the command -----------------------------------------------------------------------------------


QUESTIONS = """\
row_id,device,runtime,op,m,n,k,note
7,h100-sxm,vllm 0.24.0,gemm,512,4096,4096,"a, b"
8,h100-sxm,vllm 0.24.0,gemm,,1,1,
"""


def _rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_gzip_and_parquet_give_the_same_answers(run, tmp_path):
    (tmp_path / "in.csv").write_text(QUESTIONS)
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(QUESTIONS.encode()))
    polars.read_csv(io.StringIO(QUESTIONS)).write_parquet(tmp_path / "in.parquet")
    done = run("predict", "ops", "in.csv")
    assert done.returncode == 0, done.stderr
    expected = _rows(done.stdout)
    assert [r["row_id"] for r in expected] == ["7", "8"]
    assert expected[0]["note"] == "a, b"
    assert float(expected[0]["time_s"]) > 0
    assert expected[1]["refused"] == "m must be given for gemm"
    assert done.stderr == "1 of 2 rows answered\n"
    for name, out in (("in.csv.gz", "out.csv.gz"), ("in.parquet", "out.parquet")):
        done = run("predict", "ops", name, "-o", out)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert done.stderr == f"1 of 2 rows answered; wrote {out}\n"
    assert _rows(gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode()) == expected
    frame = polars.read_parquet(tmp_path / "out.parquet")
    assert frame.columns == list(expected[0])
    assert frame["time_s"].dtype == polars.Float64
    assert frame["time_s"][0] == pytest.approx(float(expected[0]["time_s"]), rel=1e-8)
    assert frame["time_s"][1] is None


def test_a_table_that_cannot_be_read_exits_with_2_and_a_sentence(run, tmp_path):
    (tmp_path / "utf16.csv").write_bytes(QUESTIONS.encode("utf-16"))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut")
    (tmp_path / "ragged.csv").write_text("op,m\ngemm\n")
    for name, sentence in (
        ("utf16.csv", "is not UTF-8"), ("empty.csv", "is empty"), ("none.csv", "cannot be read"),
        ("cut.parquet", "is damaged Parquet"), ("ragged.csv", "has 1 cells under 2 names"),
    ):  # fmt: skip
        done = run("predict", "ops", name, "-o", "out.csv")
        assert done.returncode == 2
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out.csv").exists()


def test_no_questions_are_no_mistake(run, tmp_path):
    (tmp_path / "in.csv").write_text("op,device,m\n")
    done = run("predict", "ops", "in.csv")
    assert done.returncode == 0
    assert done.stdout == "op,device,m," + ",".join(OUT) + "\n"
    assert done.stderr == "0 of 0 rows answered\n"


def test_a_calibration_of_another_version_stops_the_command_with_what_to_do(run, tmp_path):
    folder = tmp_path / "home" / ".local" / "share" / "forerun" / "calibrations"
    module = family("gemm")
    _fitted(folder, names=("of_yore", *(c.name for c in module.COEFS[1:])))
    (tmp_path / "in.csv").write_text(QUESTIONS)
    done = run("predict", "ops", "in.csv")
    assert done.returncode == 2
    assert "other coefficients of gemm" in done.stderr
    assert "fit it anew with `forerun calibrate ops`" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
