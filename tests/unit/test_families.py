"""Laws that the physics of every family obeys, on any device, before and after a fit.

A family added to `cost.families` fails here until its sizes are named in KINDS.
"""

import numpy as np
import pytest

from forerun.cost.choose import starting
from forerun.cost.families import families, family
from forerun.cost.operators import predict
from forerun.cost.rows import NUMBERS, Rows, joined, rows
from forerun.cost.sheet import sheet

DEVICES = (
    "h100-sxm", "a100-sxm-80gb", "l4", "h20", "b200", "mi300x", "v100-sxm2-16gb", "arc-pro-b60",
    "tpu-v5e", "xeon-8480plus",
)  # fmt: skip
N = 400

MLA = dict(kv_lora_rank=(64, 1024), head_dim=(64, 256), v_head_dim=(64, 256))
BLOCK = MLA | dict(q_lora_rank=(256, 2048), hidden=(1024, 8192))
SCAN = dict(batch=(1, 512), n_heads=(1, 128), head_dim=(32, 256), v_head_dim=(32, 256))
#: for each family the kinds of rows it answers: (fixed columns, range of each size column)
KINDS: dict[str, tuple[tuple[dict[str, object], dict[str, tuple[int, int]]], ...]] = {
    "gemm": tuple(
        (dict(dtype=dtype, impl=impl), dict(m=(1, 20_000), n=(16, 30_000), k=(16, 30_000)) | more)
        for dtype, impl, more in (
            ("bf16", "", {}), ("fp8_block", "", {}), ("int4_wo", "", {}),
            ("bf16", "bmm", dict(batch=(1, 128))),
        )
    ),
    "attention_prefill": (
        (dict(n_kv_heads=1), dict(batch=(1, 64), isl=(2, 20_000), past=(0, 50_000),
                                  n_heads=(1, 64), head_dim=(32, 256))),
        (dict(n_heads=32, n_kv_heads=8, head_dim=128), dict(isl=(1, 20_000), window=(64, 8192))),
        (dict(n_heads=32, n_kv_heads=8, head_dim=128), dict(n_decode=(1, 256), isl=(1, 8192),
                                                            past_decode=(1, 30_000))),
    ),
    "attention_decode": (
        (dict(n_kv_heads=1), dict(batch=(1, 512), past=(1, 100_000), n_heads=(1, 64),
                                  head_dim=(32, 256))),
        (dict(n_kv_heads=8, head_dim=128, kv_dtype="fp8", window=4096),
         dict(batch=(1, 512), past=(1, 50_000), n_heads=(8, 128))),
    ),
    "mla_prefill": (
        # one token over a past is another kernel, so chunks have two at least
        ({}, dict(batch=(1, 64), isl=(2, 20_000), past=(0, 50_000), n_heads=(1, 128))),
        ({}, dict(isl=(2, 8192), past=(0, 8192), n_heads=(1, 128)) | MLA),
        (dict(dtype="fp8_block"), dict(isl=(2, 8192), n_heads=(1, 128)) | BLOCK),
    ),
    "mla_decode": (
        ({}, dict(batch=(1, 1024), past=(1, 100_000), n_heads=(1, 128))),
        (dict(kv_dtype="fp8"), dict(batch=(1, 512), past=(1, 50_000), n_heads=(1, 128)) | MLA),
        (dict(dtype="fp8_block"), dict(batch=(1, 512), past=(1, 50_000), n_heads=(1, 128)) | BLOCK),
    ),
    "moe": tuple(
        (dict(topk=4, n_experts=128, moe_ep=4, distribution=spread, dtype=dtype),
         dict(n_tokens=(1, 50_000), hidden=(128, 8192), inter=(128, 8192)))
        for spread, dtype in (("uniform", "bf16"), ("balanced", "fp8"), ("power_law_1.2", "fp8"))
    ),
    "collective": tuple(
        (dict(op=op, impl=impl), dict(bytes=(1, 2**30)))
        for op, impl in (("all_reduce", "nccl"), ("all_reduce", "custom"), ("all_gather", "nccl"),
                         ("reduce_scatter", "nccl"), ("all_to_all", "nccl"), ("send_recv", ""))
    ),
    "rowwise": tuple(
        (dict(op=op), dict(n_tokens=(1, 100_000), width=(16, 200_000)))
        for op in ("norm", "activation", "softmax", "quantise", "sampling")
    ),
    "scan": tuple(
        (dict(op=op, impl=impl), SCAN | ({} if impl == "decode" else dict(isl=(1, 30_000))))
        for op in ("gdn", "mamba2", "kda", "lightning", "conv1d") for impl in ("prefill", "decode")
    ),
}  # fmt: skip
CASES = [
    (name, i) for name in families() for i in range(len(KINDS[name]))
]  # KeyError: name the sizes of a new family in KINDS
#: families in which little more work may take less, by a part of a launch: more blocks draw more of
#: the memory's rate, and a product may do without a split.  Cost tables take the running maximum.
ROUGH = {"gemm": 0.8, "moe": 0.8, "attention_decode": 0.5}


def drawn(name: str, i: int, seed: int = 0, n: int = N) -> Rows:
    """n rows of a kind, sizes log-uniform in their ranges, devices in turn."""
    fixed, sizes = KINDS[name][i]
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for column, (low, high) in sizes.items():
        u = rng.uniform(np.log(low + 1.0), np.log(high + 1.0), n)
        columns[column] = np.clip(np.round(np.exp(u)) - 1.0, low, high)
    if name == "collective":
        columns["n_gpus"] = rng.choice([2.0, 3.0, 4.0, 8.0], n)
    base = dict(op=family(name).OPS[0], device=np.resize(np.array(DEVICES, dtype=object), n))
    return rows(n, **{**base, **columns, **fixed}).filled(family(name).DEFAULTS)


def changed(x: Rows, **columns: np.ndarray) -> Rows:
    return Rows(x.n, {**x.number, **columns}, x.text)


def some_coefs(name: str, x: Rows, seed: int) -> dict[str, np.ndarray]:
    """Coefficients some factor of two from their starts, within bounds, others in each row."""
    rng = np.random.default_rng(seed)
    first = starting(x, sheet(x), family(name))
    return {
        c.name: np.clip(first[c.name] * np.exp(rng.normal(0, 0.5, x.n)), c.low, c.high)
        for c in family(name).COEFS
    }


@pytest.mark.parametrize(("name", "i"), CASES)
def test_times_and_features_are_finite_without_a_warning(name, i):
    module, x = family(name), drawn(name, i)
    s = sheet(x)
    assert not s.problems
    with np.errstate(all="raise", under="ignore"):
        counts = module.counts(x)
        times = [module.physics(x, s, starting(x, s, module))]
        times += [module.physics(x, s, some_coefs(name, x, seed)) for seed in range(3)]
        features = module.features(x, s) | module.own_features(x, s)
    for time in times:
        assert time.shape == (x.n,)
        assert np.isfinite(time).all()
        assert (time > 0).all()
    for column in counts:
        assert np.isfinite(column).all()
        assert (np.asarray(column) >= 0).all()
    assert all(np.isfinite(v).all() and np.shape(v) == (x.n,) for v in features.values())


@pytest.mark.parametrize(("name", "i"), CASES)
@pytest.mark.parametrize("fitted", [False, True])
def test_more_work_never_takes_less(name, i, fitted):
    module, x = family(name), drawn(name, i, seed=1)
    s = sheet(x)
    coefs = some_coefs(name, x, seed=5) if fitted else starting(x, s, module)
    before = module.physics(x, s, coefs)
    least = before * (1 - 1e-9) - ROUGH.get(name, 0.0) * coefs.get("launch_s", 0.0)
    rng = np.random.default_rng(2)
    for column in KINDS[name][i][1]:
        size = x.get(column)
        some = np.ceil(size * rng.uniform(0.0, 3.0, x.n))
        for step in (1.0, np.maximum(some, 1.0), 15.0 * size + 1.0):
            after = module.physics(changed(x, **{column: size + step}), s, coefs)
            assert (after >= least).all(), (column, np.flatnonzero(after < least)[:5])


@pytest.mark.parametrize(("name", "i"), CASES)
def test_no_time_is_less_than_the_data_sheet_allows(name, i):
    """Nothing runs faster than its arithmetic at the peak, whatever was fitted."""
    module, x = family(name), drawn(name, i, seed=3)
    s = sheet(x)
    least = np.nan_to_num(module.counts(x).flop / np.fmax(s.flop_per_s, s.wide_flop_per_s))
    for coefs in (starting(x, s, module), some_coefs(name, x, seed=7)):
        most = max((c.high for c in module.COEFS if c.name in ("compute", "project")), default=1.0)
        assert (module.physics(x, s, coefs) * max(1.0, most) >= least * (1 - 1e-9)).all()


@pytest.mark.parametrize(("name", "i"), CASES)
def test_a_short_row_takes_about_the_launch(name, i):
    module = family(name)
    fixed, sizes = KINDS[name][i]
    least = {column: low for column, (low, _) in sizes.items()}
    if name == "collective":
        least["n_gpus"] = 2
    one = {"op": module.OPS[0], "device": "h100-sxm"} | least | fixed
    x = rows(1, **one).filled(module.DEFAULTS)
    s = sheet(x)
    coefs = starting(x, s, module)
    # several kernels of a few microseconds each
    launches = sum(
        float(coefs[n][0])
        for n in ("launch_s", "start_s", "around_s", "prefill_s", "step_s")
        if n in coefs
    )
    assert module.physics(x, s, coefs)[0] < 6 * launches


@pytest.mark.parametrize(("name", "i"), CASES)
def test_a_long_row_runs_at_a_share_of_the_data_sheet(name, i):
    """Beyond every fixed cost, time grows as the roofline does, at 3 to 130 % of it."""
    module = family(name)
    fixed, sizes = KINDS[name][i]
    most = {column: high for column, (_, high) in sizes.items()}
    if name == "collective":
        most["n_gpus"] = 4
    one = {"op": module.OPS[0], "device": "h100-sxm"} | most | fixed
    x = rows(1, **one).filled(module.DEFAULTS)
    s = sheet(x)
    total = module.counts(x)
    if name == "collective":
        roofline = total.activation_bytes / 2 / s.link_bytes_per_s
    else:
        roofline = np.maximum(
            total.flop / np.fmax(s.flop_per_s, s.wide_flop_per_s),
            total.hbm_bytes / s.hbm_bytes_per_s,
        )
    share = roofline[0] / module.physics(x, s, starting(x, s, module))[0]
    assert 0.03 < share < 1.3


@pytest.mark.parametrize("name", families())
def test_the_file_says_all_that_the_seam_asks(name):
    module = family(name)
    assert module.OPS
    assert set(module.NEEDS) <= set(NUMBERS)
    assert module.COEFS
    for c in module.COEFS:
        assert 0 < c.low <= c.start <= c.high
        assert c.what
    x = drawn(name, 0, n=3)
    s = sheet(x)
    assert set(module.start(x, s)) <= {c.name for c in module.COEFS}


@pytest.mark.parametrize("name", families())
def test_rows_priced_together_cost_what_each_costs_alone(name):
    module = family(name)
    x = joined([drawn(name, i, seed=4, n=12) for i in range(len(KINDS[name]))])
    s = sheet(x)
    together = module.physics(x, s, starting(x, s, module))
    for i in range(x.n):
        one = x.take(np.array([i]))
        s = sheet(one)
        alone = module.physics(one, s, starting(one, s, module))
        assert alone[0] == pytest.approx(together[i], rel=1e-12)


@pytest.mark.parametrize(("moe_ep", "busy", "fuller"), [(1, 0.5, 1), (8, 0, 1), (8, 1 / 3, 2)])
def test_the_fullest_of_ep_devices_has_ep_to_the_power_of_busy_times_the_mean(moe_ep, busy, fuller):
    """Many tokens, no other terms: the time of a layer's experts is that of the arithmetic, which
    grows with the rows of the fullest device."""
    found = family("moe")
    x = rows(
        1, op="moe", device="h100-sxm", n_tokens=1e6, hidden=4096, inter=1024, topk=4,
        n_experts=64, moe_ep=moe_ep, distribution="balanced", dtype="bf16",
    ).filled(found.DEFAULTS)  # fmt: skip
    s = sheet(x)
    free = {"compute": 1.0, "stream": 1e9, "launch_s": 0.0, "token_s": 0.0, "fill": 4.0}
    at = {k: np.array([v]) for k, v in (free | {"sharp": 10.0, "busy": busy}).items()}
    flop = 2 * 1e6 * 4 / moe_ep * 3 * 4096 * 1024 * fuller
    assert found.physics(x, s, at)[0] * 989e12 == pytest.approx(flop, rel=0.02)  # half-full tiles


# ------------------------------------------------------------------- latent attention and scans


def mla(op: str, **columns) -> float:
    """Seconds of one row on an H100, by the closed form before any measurement."""
    module = family(op)
    x = rows(1, op=op, device="h100-sxm", **columns).filled(module.DEFAULTS)
    s = sheet(x)
    return float(module.physics(x, s, starting(x, s, module))[0])


def test_a_long_latent_cache_is_read_at_the_rate_of_memory():
    B, keys = 64, 100_000
    least = B * keys * 576 * 2 / 3.35e12
    assert 0.8 < least / mla("mla_decode", batch=B, past=keys, n_heads=16) < 1.0


def test_a_latent_cache_in_8_bits_takes_half_as_long():
    at = dict(batch=64, past=100_000, n_heads=16)
    ratio = mla("mla_decode", kv_dtype="fp8", **at) / mla("mla_decode", kv_dtype="bf16", **at)
    assert 0.48 < ratio < 0.6


def test_all_heads_of_latent_attention_read_the_cache_once():
    at = dict(batch=32, past=50_000)
    assert mla("mla_decode", n_heads=32, **at) < 1.1 * mla("mla_decode", n_heads=1, **at)


def test_a_block_takes_its_kernel_and_its_products():
    at = dict(batch=16, past=4096, n_heads=128)
    kernel = mla("mla_decode", **at)
    block = mla("mla_decode", hidden=7168, q_lora_rank=1536, **at)
    weights = 2 * (7168 * 2112 + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168) / 3.35e12
    assert block > kernel + weights
    narrow = mla("mla_decode", hidden=7168, q_lora_rank=1536, dtype="fp8_block", **at)
    assert kernel < narrow < block


def test_a_chunk_expands_the_latents_of_its_past():
    at = dict(isl=512, n_heads=128)
    expand = 2 * 30_000 * 512 * 128 * 256 / 989e12
    pairs = 2 * 128 * 320 * 512 * 30_000 / 989e12
    assert mla("mla_prefill", past=30_000, **at) > mla("mla_prefill", past=0, **at) + expand + pairs


def test_one_token_over_a_long_past_is_no_dearer_than_a_decode_step():
    alone = mla("mla_prefill", isl=1, past=30_000, n_heads=128)
    assert alone < 2 * mla("mla_decode", batch=1, past=30_000, n_heads=128)


def test_short_chunks_run_on_latents_where_the_engine_does_so():
    from forerun.cost.families.mla_prefill import is_absorbed

    asked = (
        ("vllm 0.24.0", 64, 0, "", True), ("vllm 0.24.0", 4096, 0, "", False),
        ("vllm 0.24.0", 64, 0, "flash_attn", False), ("trtllm", 64, 0, "", False),
        ("vllm 0.24.0", 256, 0, "flash_attn_mla", True), ("trtllm", 1, 0, "", False),
        ("trtllm", 1, 500, "", True),
    )  # fmt: skip
    runtime, isl, past, impl, expected = zip(*asked, strict=True)
    x = rows(len(asked), op="mla_prefill", device="h100-sxm", n_heads=16.0,
             runtime=np.array(runtime, dtype=object), isl=np.array(isl, dtype=float),
             past=np.array(past, dtype=float), impl=np.array(impl, dtype=object))  # fmt: skip
    x = x.filled(family("mla_prefill").DEFAULTS)
    assert tuple(is_absorbed(x, sheet(x)).tolist()) == expected


def scan(**columns) -> float:
    module = family("scan")
    given = dict(op="gdn", n_heads=32, n_kv_heads=16, head_dim=128, v_head_dim=128) | columns
    x = rows(1, device="h100-sxm", **given).filled(module.DEFAULTS)
    s = sheet(x)
    return float(module.physics(x, s, starting(x, s, module))[0])


def test_a_step_reads_and_writes_every_state_once():
    states = 2 * 1024 * 32 * 128 * 128 * 4 / 3.35e12
    assert 0.7 < states / scan(batch=1024, isl=1) < 1.0
    assert scan(batch=1024, isl=1, kv_dtype="bf16") < 0.6 * scan(batch=1024, isl=1)


def test_chunks_of_one_head_follow_each_other():
    """One sequence of few heads leaves most of the chip idle, and a longer one does not fill it."""
    one, two = (scan(batch=batch, isl=32_768, n_heads=8) for batch in (1, 2))
    assert two < 1.25 * one
    assert scan(batch=1, isl=65_536, n_heads=8) > 1.9 * one


def test_a_token_that_is_no_prefill_is_a_step():
    assert scan(batch=4, isl=1) == scan(batch=4, isl=1, impl="decode")
    assert scan(batch=4, isl=1) != scan(batch=4, isl=1, impl="prefill")


def test_what_a_scan_counts_is_what_a_layer_counts():
    from forerun.ops.ssm import Scan

    layer = Scan("gdn", 32, 128, 128)
    for impl, tokens, counted in (
        ("decode", 1, layer.decode(7.0, 1.0)), ("prefill", 5000, layer.prefill(5000.0, 0.0)),
    ):  # fmt: skip
        batch = 7 if impl == "decode" else 1
        x = rows(1, op="gdn", device="h100-sxm", batch=batch, isl=tokens, n_heads=32, head_dim=128,
                 n_kv_heads=32, v_head_dim=128, impl=impl)  # fmt: skip
        got = family("scan").counts(x.filled(family("scan").DEFAULTS))
        assert got.flop[0] == pytest.approx(float(counted.flop))
        assert got.kv_bytes[0] == pytest.approx(float(counted.kv_bytes))


def test_a_layer_of_a_model_is_its_convolution_and_its_scan():
    from forerun.catalog import device
    from forerun.cost.calibration import Store
    from forerun.cost.collectives import wires
    from forerun.cost.costs import Costs
    from forerun.ops.ssm import Scan

    on = device("h100-sxm")
    costs = Costs(on, wires(on), store=Store())
    channels = 2 * 16 * 128 + 32 * 128
    whole = Scan("gdn", 32, 128, 128, conv=4, conv_channels=channels)
    at = (np.array([[1.0], [64.0], [512.0]]), np.array([100.0, 9000.0]))
    together = costs.decode(whole, *at)
    convolution = [scan(op="conv1d", batch=n, isl=1, k=4, width=channels) for n in (1, 64, 512)]
    steps = [scan(batch=n, isl=1) for n in (1, 64, 512)]
    assert together[:, 0] == pytest.approx(np.array(convolution) + steps, rel=0.01)
    assert (together[:, 0] == together[:, 1]).all()  # whatever the context
    assert costs.launch(whole) == 0.0  # inside the times already
    chunk = costs.prefill(whole, np.array([[0.0], [4096.0]]), np.array([0.0]))[:, 0]
    alone = scan(batch=1, isl=4096) + scan(op="conv1d", batch=1, isl=4096, k=4, width=channels)
    assert chunk == pytest.approx([0.0, alone], rel=0.01)
    point = costs.point(whole, 64.0, 100.0)
    assert point.time_s == pytest.approx(together[1, 0], rel=0.01)
    assert point.low_s < point.time_s < point.high_s


def test_what_latent_attention_counts_is_what_a_layer_counts():
    from forerun.ops.attention import Attention

    layer = Attention(128, 128, 192, 128, latent_dim=576, latent_v=512, reproject=256)
    x = rows(1, op="mla_decode", batch=8, past=3000, n_heads=128)
    decode = family("mla_decode").counts(x.filled(family("mla_decode").DEFAULTS))
    assert decode.flop[0] == pytest.approx(float(layer.decode(8.0, 3000.0).flop))
    assert decode.hbm_bytes[0] == pytest.approx(
        float(layer.decode(8.0, 3000.0).hbm_bytes), rel=0.02
    )
    x = rows(1, op="mla_prefill", isl=700, past=3000, n_heads=128)
    prefill = family("mla_prefill").counts(x.filled(family("mla_prefill").DEFAULTS))
    assert prefill.flop[0] == pytest.approx(float(layer.prefill(700.0, 3000.0).flop))
    assert prefill.kv_bytes[0] == pytest.approx(float(layer.prefill(700.0, 3000.0).kv_bytes))


def test_a_kernel_and_a_block_are_told_apart_by_the_width_of_the_model():
    x = rows(2, op="mla_decode", device="h100-sxm", batch=8.0, past=1000.0, n_heads=16.0,
             q_lora_rank=1536.0, hidden=np.array([np.nan, 7168.0]))  # fmt: skip
    answers = predict(x)
    assert (answers.refused == "").all()
    assert answers.time_s[1] > 1.3 * answers.time_s[0]
    assert answers.flop[1] > answers.flop[0]


# ---------------------------------------------------------------------------- measured tables


@pytest.mark.parametrize("table", ["gdn", "mamba2", "mla_context_module", "mla_generation_module"])
def test_blocks_and_scans_of_the_tables_are_read(shared_data, table):
    from forerun.measure.tables import read_tables

    folder = shared_data / "aiconfigurator_ops" / "h100_sxm" / "trtllm-1.3.0rc20"
    (read,) = read_tables(folder / f"{table}_perf.parquet")
    name = "scan" if table in ("gdn", "mamba2") else table.replace("_module", "")
    name = {"mla_context": "mla_prefill", "mla_generation": "mla_decode"}.get(name, name)
    module = family(name)
    assert set(read.rows.words("op")) <= set(module.OPS)
    x = read.rows.filled(module.DEFAULTS)
    s = sheet(x)
    close = np.abs(np.log(module.physics(x, s, starting(x, s, module)) / read.time_s))
    assert np.median(close) < np.log(1.5)  # nothing is fitted here


def test_a_whole_block_gives_the_width_of_the_model(shared_data):
    from forerun.measure.tables import read_tables

    folder = shared_data / "aiconfigurator_ops" / "h100_sxm" / "trtllm-1.3.0rc20"
    (block,) = read_tables(folder / "mla_generation_module_perf.parquet")
    (kernel,) = read_tables(folder / "generation_mla_perf.parquet")
    assert (block.rows.get("hidden") == 7168).all()
    assert np.isnan(kernel.rows.get("hidden")).all()
    assert set(block.rows.get("past")) == set(kernel.rows.get("past"))
    assert "fp8_block" in set(block.rows.words("dtype"))
