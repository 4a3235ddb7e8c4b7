"""Laws that the physics of every family obeys, on any device, before and after a fit.

A family added to `cost.families` fails here until its sizes are named in KINDS.
"""

import numpy as np
import pytest

from forerun.cost.chosen import starting
from forerun.cost.families import families, family
from forerun.cost.rows import NUMBERS, Rows, joined, rows
from forerun.cost.sheet import sheet

DEVICES = (
    "h100-sxm", "a100-sxm-80gb", "l4", "h20", "b200", "mi300x", "v100-sxm2-16gb", "arc-pro-b60",
    "tpu-v5e", "xeon-8480plus", "h100-nvl",
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
        (dict(runtime="trtllm", n_kv_heads=8, head_dim=128, kv_dtype="fp8"),
         dict(batch=(1, 64), isl=(2, 20_000), n_heads=(8, 64))),
        (dict(runtime="vllm", n_heads=32, n_kv_heads=8, head_dim=128, kv_dtype="fp8"),
         dict(isl=(1, 8192), past=(0, 30_000), n_decode=(1, 256), past_decode=(1, 30_000))),
    ),
    "attention_decode": (
        (dict(n_kv_heads=1), dict(batch=(1, 512), past=(1, 100_000), n_heads=(1, 64),
                                  head_dim=(32, 256))),
        (dict(n_kv_heads=8, head_dim=128, kv_dtype="fp8", window=4096),
         dict(batch=(1, 512), past=(1, 50_000), n_heads=(8, 128))),
        (dict(runtime="trtllm", n_kv_heads=1, head_dim=128),
         dict(batch=(1, 512), past=(1, 50_000), n_heads=(8, 64))),
        (dict(runtime="trtllm", n_heads=32, n_kv_heads=8, head_dim=128, kv_dtype="fp8", window=512),
         dict(batch=(1, 512), past=(1, 50_000))),
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
    peak = np.fmax(s.flop_per_s, s.wide_flop_per_s)
    if name == "attention_prefill":  # some multiply in the format of the cache
        peak = np.where(x.words("kv_dtype") == "fp8", np.fmax(peak, s.fp8_flop_per_s), peak)
    least = np.nan_to_num(module.counts(x).flop / peak)
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


@pytest.mark.parametrize(("name", "i"), CASES)
@pytest.mark.parametrize(
    "other", [dict(impl="new"), dict(dtype="fp8"), dict(kv_dtype="fp8"),
              dict(distribution="power_law_1.5")],
)  # fmt: skip
def test_no_number_stands_for_a_word_that_may_never_have_been_measured(name, i, other):
    """A key is written as it was measured before features are taken; any other word that were
    numbered would be taken for whichever measured one has the next number."""
    module, x = family(name), drawn(name, i)
    ((column, word),) = other.items()
    if column in module.KEYS:
        return
    moved = Rows(x.n, x.number, {**x.text, column: np.full(x.n, word, dtype=object)})
    s = sheet(x)
    before, after = module.own_features(x, s), module.own_features(moved, s)
    for feature in before:
        assert np.abs(after[feature] - before[feature]).max() < 64, feature


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
