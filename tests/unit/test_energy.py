"""Power of kernels, clocks and caps: laws that hold whatever was fitted, and readers' units."""

import gzip

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from forerun import catalog
from forerun.calibrate import power_cap as fitting
from forerun.calibrate.energy import model_of
from forerun.cli import group
from forerun.cost.energy import curves, power, read
from forerun.cost.power_cap import capped, clock, curve, drawn_at
from forerun.errors import SpecError
from forerun.measure.energy import joined, llm_inference_bench, mlenergy, read_all, splitwise, zeus

H100 = catalog.device("h100-sxm")
V100 = catalog.device("v100-pcie-32gb")
DEVICES = ("h100-sxm", "a100-sxm-40gb", "b200", "mi300x", "l4", "tpu-v5e", "xeon-8480plus")
amounts = st.floats(0, 1e15)


@pytest.mark.parametrize("name", DEVICES)
def test_no_work_draws_more_than_the_data_sheet_allows(name):
    p = power(catalog.device(name))
    # a thousand times what any kernel can do in a second
    assert p.dynamic_j(1e19, 1e16, 1e13, 1.0, "bf16") <= p.span_w
    assert p.idle_w + p.limit_w <= p.device.tdp_w


@given(amounts, amounts, st.floats(1e-6, 1.0))
def test_more_work_in_the_same_time_never_draws_less(flop, hbm_bytes, time_s):
    p = power(H100)
    least = p.dynamic_j(flop, hbm_bytes, 0.0, time_s, "bf16")
    assert p.dynamic_j(2 * flop, hbm_bytes, 0.0, time_s, "bf16") >= least
    assert p.dynamic_j(flop, 2 * hbm_bytes, 0.0, time_s, "bf16") >= least
    assert p.dynamic_j(flop, hbm_bytes, 1e9, time_s, "bf16") >= least


@given(amounts, amounts, st.floats(1e-6, 1.0))
def test_the_same_work_in_more_time_never_takes_less_energy(flop, hbm_bytes, time_s):
    p = power(H100)
    assert p.dynamic_j(flop, hbm_bytes, 0.0, 2 * time_s, "bf16") >= p.dynamic_j(
        flop, hbm_bytes, 0.0, time_s, "bf16"
    )


def test_a_flop_in_eight_bits_costs_what_it_does_in_sixteen_and_in_thirty_two_more():
    p = power(H100)
    assert p.j_per_flop("fp8") == p.j_per_flop("bf16")
    assert p.j_per_flop("fp32") == pytest.approx(p.j_per_flop("bf16") * 989.4 / 67)


def test_a_metered_device_says_no_word_and_another_says_whose_shares_it_took():
    assert power(H100).assumed == ()
    (said,) = power(catalog.device("h200-sxm")).assumed
    assert "was not metered" in said
    assert "h100-sxm" in said


def test_a_device_without_metered_relatives_takes_the_nearest_year():
    # B200 is of 2024: H100 (2022) is nearer than A100 (2020)
    assert any("h100-sxm" in said for said in power(catalog.device("b200")).assumed)
    assert any("a100-sxm-40gb" in said for said in power(V100).assumed)


def test_every_curve_names_its_origin_and_its_error_on_models_left_out():
    assert {c.device for c in curves()} >= {"h100-sxm", "a100-sxm-40gb"}
    for c in curves():
        assert c.origin
        assert c.rows >= 8
        assert 0 < c.error["power_w median"] < c.error["power_w p90"]


@given(st.floats(0.1, 1.0))
def test_the_clock_for_a_power_draws_that_power(share):
    assert drawn_at(clock(np.array(share))) == pytest.approx(share, rel=1e-6)


def test_half_the_power_keeps_more_than_half_the_clock():
    # voltage falls with the clock, so power falls faster
    assert 0.75 < clock(np.array(0.5)) < 0.95


@given(st.floats(60, 250), st.floats(80, 250), st.floats(80, 250))
def test_a_lower_cap_is_never_faster_and_never_draws_more(power_w, one, other):
    low, high = sorted((one, other))
    (slow_s, little_w), (fast_s, much_w) = (
        capped(100.0, power_w, cap, V100) for cap in (low, high)
    )
    assert slow_s >= fast_s * (1 - 1e-9)
    assert little_w <= much_w * (1 + 1e-9)
    assert slow_s >= 100 * (1 - 1e-9)


@given(st.floats(60, 250), st.floats(80, 250))
def test_mean_power_stays_under_the_cap(power_w, cap_w):
    assert capped(1.0, power_w, cap_w, V100)[1] <= cap_w * (1 + 1e-9)


def test_a_cap_at_the_data_sheets_limit_changes_nothing():
    time_s, power_w = capped(7.0, 200.0, V100.tdp_w, V100)
    assert time_s == pytest.approx(7.0)
    assert power_w == pytest.approx(200.0)


def test_work_that_draws_little_does_not_feel_a_cap():
    time_s, _ = capped(7.0, 80.0, 150.0, V100)
    assert time_s == pytest.approx(7.0)


def test_a_cap_below_idle_is_refused():
    with pytest.raises(SpecError, match="draws idle"):
        capped(1.0, 100.0, 10.0, V100)


def test_a_power_that_no_clock_draws_is_refused_and_not_taken_for_the_lowest():
    with pytest.raises(SpecError, match="at the lowest clock, 15% of the highest"):
        clock(np.array([0.5, 0.01]))
    with pytest.raises(SpecError, match="this work draws on v100-pcie-32gb at its lowest clock"):
        capped(1.0, 240.0, 45.0, V100)


def test_a_curve_is_found_again_from_jobs_it_made():
    truth = curve().model_copy(update={"linear": 0.4, "exponent": 6.0, "burst": 0.2})
    caps = np.tile([100.0, 125, 150, 175, 200, 225, 250], 4)
    free_w = np.repeat([90.0, 150, 190, 230], 7)
    time_s, power_w = capped(np.full(28, 50.0), free_w, caps, V100, by=truth)
    runs = zeus.CapRuns(
        device=np.full(28, V100.name, dtype=object), job=np.repeat(list("abcd"), 7),
        model=np.repeat(list("abcd"), 7), cap_w=caps, time_s=time_s, power_w=power_w,
        origin="made", licence="none",
    )  # fmt: skip
    found = fitting.solve(runs, np.ones(28, dtype=bool))
    assert found.linear == pytest.approx(0.4, abs=0.02)
    assert found.exponent == pytest.approx(6.0, rel=0.1)
    assert found.rows == 24  # the four at the highest cap predict themselves


def _written(path, text):
    with gzip.open(path, "wt") as file:
        file.write(text)
    return path.parent


def test_power_of_several_gpus_is_read_as_that_of_one(tmp_path):
    folder = _written(
        tmp_path / "h100.csv.gz",
        "task,model_id,gpu_model,num_gpus,expert_parallel,weight_precision,avg_batch_size,"
        "avg_output_len,output_throughput_tokens_per_sec,avg_power_watts\n"
        "gpqa,Qwen/Qwen3-8B,H100,4,1,bfloat16,8,1000,400,2000\n"
        "text-to-image,some/diffuser,H100,1,1,bfloat16,1,1,1,600\n",
    )
    runs = mlenergy.read(folder)
    assert runs.n == 1  # images are another story
    assert runs.n_dropped["of tasks with images, video or unknown prompts"] == 1
    assert joined([runs, runs]).n_dropped["of tasks with images, video or unknown prompts"] == 2
    assert runs.power_w[0] == 500
    assert runs.step_s[0] == pytest.approx(8 / 400)
    assert runs.energy_j_per_token[0] == pytest.approx(2000 / 400)


def test_milliwatt_and_whole_nodes_are_told_apart(tmp_path):
    folder = _written(
        tmp_path / "power.csv.gz",
        "Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,"
        "avg_power\n"
        "Nvidia A100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,1024,32,45.96,484.758\n"  # a node of four
        "Nvidia A100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,1024,32,46.06,320684.8\n",  # milliwatt
    )
    runs = llm_inference_bench.read(folder)
    assert runs.power_w.tolist() == pytest.approx([320.6848])
    assert sum(runs.n_dropped.values()) == 1
    assert runs.step_s[0] == pytest.approx(46.06 / 1024)


def test_rows_without_a_meter_are_left_out_and_repeats_are_one(tmp_path):
    head = (
        "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,"
        "token_time,e2e_time,tensor_parallel\n"
    )
    row = "llama2-70b,a100-80gb,512,{batch},128,0.75,{mean},{ms},45,5800,8\n"
    folder = _written(
        tmp_path / "perf_a100.csv.gz",
        head + row.format(batch=1, mean=0.44, ms=90) + row.format(batch=1, mean=0.44, ms=100)
        + row.format(batch=64, mean=0.0, ms=8000) + row.format(batch=2, mean=0.17, ms=100),
    )  # fmt: skip
    found = splitwise.read(folder)
    assert found.batch.tolist() == [1]
    assert found.decode_w[0] == pytest.approx(0.44 * 400)
    assert found.prompt_s[0] == pytest.approx(0.095)


def test_a_file_without_its_columns_is_refused_by_name(tmp_path):
    _written(tmp_path / "power_v100.csv.gz", "dataset,network\na,b\n")
    with pytest.raises(SpecError, match="power_limit"):
        zeus.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3-30b-a3b"),
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("google/gemma-3-12b-it", "gemma-3-12b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
    ],
)
def test_published_names_find_the_catalogs_models(name, meant):
    assert model_of(name).name == meant


OWN = "model,device,tp,isl,osl,concurrency,output_tokens_per_s,power_w\n"


def test_a_table_of_ones_own_is_read(tmp_path):
    path = tmp_path / "metered.csv"
    path.write_text(OWN + "llama-3.1-8b,h100,2,1000,200,16,1600,900\n")
    (runs,), capped = read_all([path])
    assert not capped
    assert runs.device.tolist() == ["h100-sxm"]
    assert runs.power_w.tolist() == [450]  # of one of two
    assert runs.step_s.tolist() == [0.01]


def test_milliwatt_and_missing_columns_are_refused_all_at_once(tmp_path):
    path, other = tmp_path / "metered.csv", tmp_path / "short.csv"
    path.write_text(OWN + "llama-3.1-8b,h100,1,1000,200,16,1600,450000\n")
    other.write_text("model,power_w\nllama-3.1-8b,450\n")
    with pytest.raises(SpecError) as caught:
        read_all([path, other, tmp_path / "nowhere"])
    text = str(caught.value)
    assert "450000 W a device" in text
    assert "output_tokens_per_s" in text
    assert "no such file" in text


def test_metered_runs_become_a_curve_that_every_command_uses(tmp_path, monkeypatch):
    rows = []
    for name in ("llama-3.1-8b", "qwen3-8b"):
        for batch, rate, watts in ((1, 60, 45), (4, 230, 48), (16, 800, 52), (32, 1200, 55)):
            rows.append(f"{name},l4,1,500,300,{batch},{rate},{watts}\n")
    (tmp_path / "metered.csv").write_text(OWN + "".join(rows))
    monkeypatch.setenv("FORERUN_DATA_DIR", str(tmp_path / "data"))
    curves.cache_clear()
    power.cache_clear()
    try:
        before = power(catalog.device("l4"))
        done = CliRunner().invoke(group, ["calibrate", "energy", str(tmp_path / "metered.csv")])
        assert done.exit_code == 0, done.output
        assert "l4" in done.output
        assert "8" in done.output
        curves.cache_clear()
        power.cache_clear()
        after = power(catalog.device("l4"))
        assert any("not metered" in said for said in before.assumed)
        assert not any("not metered" in said for said in after.assumed)
        assert after.source == "own table metered.csv"
    finally:
        monkeypatch.undo()
        curves.cache_clear()
        power.cache_clear()


def test_a_damaged_curve_is_refused_with_every_mistake(tmp_path):
    path = tmp_path / "h100-sxm.yaml"
    path.write_text("device: h100-sxm\nactive: -1\nmemory: much\nwatts: 3\n")
    with pytest.raises(SpecError) as caught:
        read(path)
    text = str(caught.value)
    for word in ("active", "memory", "watts", "origin"):
        assert word in text
