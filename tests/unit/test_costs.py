"""What a model's kernels take from what was measured: bounds, stand-ins, and wider intervals."""

from dataclasses import replace

import numpy as np
import pytest

from forerun.catalog import device, model
from forerun.cost.calibration import Calibration, Errors, Origin, Store, save
from forerun.cost.chosen import starting
from forerun.cost.collectives import wires
from forerun.cost.costs import Costs
from forerun.cost.families import family
from forerun.cost.operators import predict
from forerun.cost.price import merged, n_kernels, price
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.cost.step import step_time
from forerun.ops.attention import Attention
from forerun.ops.collectives import Collective
from forerun.ops.elementwise import Elementwise
from forerun.ops.lower import lower
from forerun.ops.matmul import Matmul
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Pool

H100 = device("h100-sxm")
REGIMES = ("under_20us", "bandwidth", "compute")


def fitted(folder, name, key, *, spread=0.1, on="h100-sxm", **coefs):
    """A folder with one calibration more; coefficients as before any fit but for those given."""
    module = family(name)
    values = {c.name: coefs.get(c.name, c.start) for c in module.COEFS}
    own = Calibration(
        family=name, device=on, engine="vllm" if on else "", version="1.0" if on else "",
        keys=(key,), names=tuple(values), coefs=np.array([list(values.values())]),
        ranges={"m": (64.0, 1024.0)},
        spread=dict.fromkeys(REGIMES, (-spread, spread)),
        errors=Errors(9, 0.1, 0.2, "x"), origins=(Origin("t", "me", "MIT", 10),), date="d",
    )  # fmt: skip
    save(own, folder)
    return Store(folder)


def on_h100(store):
    return Costs(H100, wires(H100), store=store)


def gemm(**more):
    return rows(**dict(op="gemm", m=512, n=4096, k=4096, dtype="bf16", device="h100-sxm") | more)


def test_an_interval_is_wider_below_the_range_above_it_and_under_another_runtime(tmp_path):
    fitted(tmp_path, "gemm", "", on="", spread=0.5)
    store = fitted(tmp_path, "gemm", "bf16|", spread=0.1)

    def high(**more):
        got = predict(gemm(**{"runtime": "vllm 1.0"} | more), store)
        return float(np.log(got.high_s / got.time_s)[0]), bool(got.outside[0])

    assert high() == (pytest.approx(0.1), False)
    assert high(m=32) == (pytest.approx(0.5), True)
    assert high(m=2048) == (pytest.approx(0.5), True)
    assert high(runtime="sglang 1.0") == (pytest.approx(0.5), False)


def seconds(store, **more):
    return float(predict(gemm(**more), store).time_s[0])


def test_under_another_runtime_a_kernel_lies_halfway_between_the_device_and_its_data_sheet(
    tmp_path,
):
    unmoved = {c.name: 1.0 for c in family("gemm").COEFS}
    data_sheet = fitted(tmp_path / "a", "gemm", "", on="", **unmoved)
    store = fitted(tmp_path / "b", "gemm", "", on="", **unmoved)
    store = fitted(tmp_path / "b", "gemm", "fp8|", compute=0.3, launch_s=1e-4)
    # of the kernel that was measured all but its start, which is of the other engine's software
    large = dict(dtype="fp8", m=4096)
    x = gemm(runtime="sglang", **large).filled(family("gemm").DEFAULTS)
    start_s = float(starting(x, sheet(x), family("gemm"))["launch_s"][0])
    same_start = fitted(tmp_path / "c", "gemm", "fp8|", compute=0.3, launch_s=start_s)
    own = seconds(same_start, runtime="vllm 1.0", **large)
    across = seconds(data_sheet, runtime="sglang", **large)
    got = predict(gemm(runtime="sglang", **large), store)
    assert own > 1.5 * across
    assert got.time_s[0] == pytest.approx(np.sqrt(own * across), rel=1e-6)
    assert got.source[0] == "half fitted: h100-sxm vllm 1.0, 10 rows"
    assert "h100-sxm was measured with vllm 1.0, not sglang" in got.assumed[0]


def test_products_that_engines_leave_to_a_library_are_those_of_any_runtime(tmp_path):
    fitted(tmp_path, "gemm", "", on="")
    store = fitted(tmp_path, "gemm", "bf16|", compute=0.3, launch_s=1e-4)
    assert seconds(store, runtime="sglang") == seconds(store, runtime="vllm 1.0")


def test_a_sibling_answers_for_another_runtime_too(tmp_path):
    fitted(tmp_path, "gemm", "", on="")
    store = fitted(tmp_path, "gemm", "bf16|cublas", compute=0.3)
    asked = dict(device="h200-sxm", m=8192)
    got = predict(gemm(runtime="sglang", **asked), store)
    assert got.source[0].startswith("scaled: h100-sxm vllm 1.0")
    assert got.time_s[0] == seconds(store, runtime="vllm 1.0", **asked)
    # as many flop a second as there: both hold 132 SM
    assert got.time_s[0] == pytest.approx(seconds(store, runtime="vllm 1.0", m=8192), rel=0.02)
    assert predict(gemm(runtime="sglang", device="l4"), store).source[0].startswith("across")


def test_a_kernel_by_another_name_is_still_of_the_device(tmp_path):
    fitted(tmp_path, "gemm", "", on="")
    store = fitted(tmp_path, "gemm", "bf16|cublas", compute=0.3)
    named = [seconds(store, runtime="vllm 1.0", impl=name) for name in ("", "cublas", "mine")]
    assert named[0] == named[1] == named[2]


def test_a_collective_by_another_library_is_not(tmp_path):
    fitted(tmp_path, "collective", "", on="")
    store = fitted(tmp_path, "collective", "all_reduce|custom", launch_s=1e-4)
    asked = dict(op="all_reduce", device="h100-sxm", runtime="vllm 1.0", n_gpus=4, bytes=1e6)
    sources = [predict(rows(impl=name, **asked), store).source[0] for name in ("custom", "nccl")]
    assert [source.partition(":")[0].partition(",")[0] for source in sources] == [
        "fitted", "across devices"
    ]  # fmt: skip


def test_no_product_is_done_before_its_flop_at_the_peak(tmp_path):
    # a boost clock of 1.1 would take 0.91 of it; 0.95 is as far as clocks go
    store = fitted(tmp_path, "gemm", "bf16|", compute=1.1, launch_s=3e-7, step_s=1e-10)
    got = predict(gemm(m=16384, n=16384, k=16384, runtime="vllm 1.0"), store)
    least = 2 * 16384.0**3 / H100.peak_flop_per_s["bf16"]
    assert got.time_s[0] == pytest.approx(0.95 * least)


def test_a_models_weights_come_from_memory_however_a_table_repeats_a_product(tmp_path):
    store = fitted(tmp_path, "gemm", "bf16|", cached=12.0, stream=1.1, launch_s=3e-7)
    shape, one = Matmul(4096, 2048, "bf16"), np.ones(1)  # 16 MiB, a third of the cache
    from_memory = 2.0 * 4096 * 2048 / H100.hbm_bytes_per_s
    assert on_h100(store).by_tokens(shape, one)[0] == pytest.approx(from_memory)
    assert replace(on_h100(store), cached=True).by_tokens(shape, one)[0] < 0.6 * from_memory


def test_an_eager_start_of_attention_is_not_that_of_a_replayed_graph(tmp_path):
    store = fitted(tmp_path, "attention_decode", "bf16|bf16|", launch_s=400e-6)
    shape = next(o.shape for o in lower(model("llama-3.1-8b"), Pool(device="h100-sxm")).ops
                 if isinstance(o.shape, Attention))  # fmt: skip
    assert on_h100(store).launch(shape) == family("attention_decode").GRAPH_S < 400e-6


def test_each_further_kernel_of_an_operator_is_started():
    m, one = on_h100(Store()), np.ones(1)
    alone, three = (Elementwise(8192, 8192, kernels=k) for k in (1, 3))
    more = m.by_tokens(three, one) - m.by_tokens(alone, one)
    assert more[0] == pytest.approx(2 * m.eff.launch_s)


def test_a_collective_outside_a_graph_starts_later():
    x = rows(op="all_reduce", n_gpus=4, bytes=1024.0, graphs=[1.0, 0.0], device="h100-sxm")
    within, outside = predict(x, Store()).time_s
    assert outside > within


def test_a_window_is_all_that_a_chunk_reads_of_its_past():
    x = rows(
        op="attention_prefill", isl=16, past=4096, n_heads=8, n_kv_heads=8, head_dim=64,
        window=[512.0, 0.0], device="h100-sxm",
    )  # fmt: skip
    module = family("attention_prefill")
    kv_bytes = module.counts(x.filled(module.DEFAULTS)).kv_bytes
    assert kv_bytes.tolist() == [2 * 2 * 8 * 64 * 512, 2 * 2 * 8 * 64 * 4096]


def test_a_step_with_a_prompt_takes_no_less_than_the_host_to_start_its_kernels():
    graph = replace(lower(model("llama-3.1-8b"), Pool(device="h100-sxm")), host_kernel_s=1e-3)
    table = price(graph, H100, max_tokens=64, max_seqs=4, max_len=1024)
    assert table.eager_s == pytest.approx(1e-3 * n_kernels(merged(graph)))
    prompt = step_time(table, n_tokens=16, n_seqs=1, chunks=[(16, 0)])
    decode = step_time(table, n_tokens=1, n_seqs=1, decode_ctx=100)
    host = table.host_step_s + table.host_seq_s
    assert prompt.value == pytest.approx(table.eager_s + host)
    assert decode.value < 0.1 * prompt.value


def test_a_shape_beyond_all_that_was_measured_says_so_on_a_device_never_measured(tmp_path):
    store = fitted(tmp_path, "gemm", "", on="", spread=0.3)
    got = predict(gemm(m=[512.0, 2048.0], device="b200"), store)
    assert got.outside.tolist() == [False, True]
    assert np.log(got.high_s / got.time_s) == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b", "nemotron-h-8b"])
def test_the_point_that_shares_and_intervals_come_from_is_that_of_the_table(name):
    graph = lower(model(name), Pool(device="h100-sxm"))
    m, n, ctx = on_h100(Store()), np.array([32.0]), np.array([1024.0])
    for op in merged(graph):
        if not op.kernels and not isinstance(op.shape, Collective):
            continue
        if isinstance(op.shape, Attention | Scan):
            point = m.point(op.shape, 32, 1024)
            table = m.decode(op.shape, n[:, None], ctx)[0, 0] + m.launch(op.shape)
        else:
            point, table = m.point(op.shape, 32), m.by_tokens(op.shape, n)[0]
        assert point.time_s == pytest.approx(table, rel=0.01), op.name
