"""Fits of operator costs: what is known is found again, and what was kept back is never seen."""

import json
from dataclasses import replace

import lightgbm
import numpy as np
import pytest

from forerun.calibrate import data as data_module
from forerun.calibrate import operators as fitting
from forerun.calibrate import solve
from forerun.calibrate.accuracy import accuracy
from forerun.calibrate.baselines import nearest_scaled_s, roofline_s
from forerun.calibrate.data import Data, balance, gathered, machine_of
from forerun.calibrate.judged import _kept_apart, judge, lines, splits, text
from forerun.calibrate.operators import fit, fit_own
from forerun.calibrate.run import calibrate, check_family, fitted, left_out, write
from forerun.calibrate.solve import fit_coefs, learn
from forerun.calibrate.split import held_out
from forerun.cost import trees as trees_module
from forerun.cost.calibration import Store, save
from forerun.cost.families import family
from forerun.cost.operators import groups, predict
from forerun.cost.rows import joined, rows
from forerun.cost.sheet import sheet
from forerun.cost.trees import STEP, trees_of_booster
from forerun.errors import SpecError
from forerun.measure.tables import Table
from forerun.spec.columns import write_columns

GEMM = dict(compute=0.72, stream=0.61, launch_s=4e-6)
ROWWISE = dict(stream=0.55, cached=3.0, fill=2.0, launch_s=5e-6)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Fits of a moment: what is tested holds for any number of trees."""
    monkeypatch.setitem(fitting.OWN, "n_trees", 40)
    monkeypatch.setitem(fitting.GENERAL, "n_trees", 20)
    monkeypatch.setitem(solve.FIXED, "num_threads", 1)


def _shapes(name, n, seed=0, **more):
    """n rows of a family with sizes spread over the decades."""
    rng = np.random.default_rng(seed)

    def size(low, high):
        return np.round(np.exp(rng.uniform(np.log(low), np.log(high), n)))

    given = dict(device="h100-sxm", runtime="vllm 0.24.0", dtype="bf16") | more
    if name == "gemm":
        given |= dict(op="gemm", m=size(1, 16384), n=size(256, 16384), k=size(256, 16384))
    elif name == "rowwise":
        given |= dict(op="norm", n_tokens=size(1, 65536), width=size(256, 16384))
    else:
        given |= dict(op="all_reduce", impl="nccl", n_gpus=rng.choice([2, 4, 8], n),
                      bytes=size(1e3, 1e9))  # fmt: skip
    return rows(n, **given)


def _timed(name, x, coefs, noise=0.0, seed=1):
    """A table of the family's own physics with these coefficients, and lognormal noise."""
    module = family(name)
    x = x.filled(module.DEFAULTS)
    known = {c.name: c.start for c in module.COEFS} | coefs
    time_s = module.physics(x, sheet(x), known)
    time_s = time_s * np.exp(noise * np.random.default_rng(seed).normal(size=x.n))
    return Table(x, time_s, f"synthetic {name} {seed}", "made here", "MIT")


def _data(name, n=1200, coefs=None, noise=0.0, seed=0, **more) -> Data:
    coefs = {"gemm": GEMM, "rowwise": ROWWISE}.get(name, {}) if coefs is None else coefs
    (data,) = gathered([_timed(name, _shapes(name, n, seed, **more), coefs, noise, seed + 1)])
    return data


# -- coefficients ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "coefs", "within"),
    [
        ("gemm", GEMM, 0.05),
        ("rowwise", ROWWISE, 0.08),
        ("collective", dict(share=0.6, start_s=9e-6, long_s=12e-6), 0.15),
    ],
)
def test_known_coefficients_are_found_again(name, coefs, within):
    data = _data(name, coefs=coefs)
    keys, found = fit_coefs(data)
    assert len(keys) == 1
    own = dict(zip((c.name for c in data.module.COEFS), found[0], strict=True))
    for coef, value in coefs.items():
        assert own[coef] == pytest.approx(value, rel=within), coef
    new = _data(name, 300, coefs=coefs, seed=7)
    said = new.module.physics(new.x, new.s, own)
    assert np.median(np.abs(said / new.time_s - 1)) < 0.01


def test_coefficients_survive_a_tenth_of_the_rows_being_wrong():
    data = _data("rowwise", noise=0.02)
    wrong = np.random.default_rng(5).random(data.x.n) < 0.1
    _, found = fit_coefs(replace(data, time_s=np.where(wrong, 5 * data.time_s, data.time_s)))
    assert found[0][0] == pytest.approx(ROWWISE["stream"], rel=0.1)


def test_each_key_has_coefficients_of_its_own_the_most_measured_first():
    parts = [
        _timed("rowwise", _shapes("rowwise", n, impl=impl), dict(stream=stream))
        for impl, n, stream in (("rare", 200, 0.3), ("usual", 600, 0.7))
    ]
    (data,) = gathered(parts)
    keys, found = fit_coefs(data)
    assert keys == ("norm|bf16|usual", "norm|bf16|rare")
    assert found[:, 0] == pytest.approx([0.7, 0.3], rel=0.05)


def test_few_rows_stay_near_what_the_data_sheet_says_and_many_do_not():
    prior = family("rowwise").start(*_asked("rowwise"))["stream"][0]
    wild = dict(stream=prior / 3)
    few = fit_coefs(_data("rowwise", 2, coefs=wild))[1][0][0]
    many = fit_coefs(_data("rowwise", 500, coefs=wild))[1][0][0]
    assert abs(np.log(many / wild["stream"])) < 0.05
    assert abs(np.log(few / prior)) < abs(np.log(many / prior))


def _asked(name):
    x = _shapes(name, 3).filled(family(name).DEFAULTS)
    return x, sheet(x)


def test_what_others_leave_is_not_added_to_a_device_of_few_rows(tmp_path):
    """Its coefficients were fitted, and its errors stated, without a residual."""
    few = _data("rowwise", 40)
    two = [_data("rowwise", 900, device=name) for name in ("l4", "l40s")]
    x = joined([data.x for data in two])
    time_s = np.concatenate([data.time_s for data in two])
    others = replace(
        two[0], x=x, s=sheet(x), time_s=3 * time_s * (1 + (x.get("width") > 2000)),
        table=np.concatenate([data.table for data in two]),
    )  # fmt: skip
    for own in (fit(others, date="d").calibrations[0], fit(few, date="d").calibrations[1]):
        save(own, tmp_path)
    new = _data("rowwise", 300, seed=3)
    store = Store(tmp_path)
    assert store.general("rowwise").trees is not None
    assert np.median(np.abs(predict(new.x, store).time_s / new.time_s - 1)) < 0.05


def test_ten_rows_of_a_new_device_make_it_better_than_its_data_sheet(tmp_path):
    coefs = dict(stream=0.3, launch_s=20e-6)
    ten, new = (_data("rowwise", n, coefs=coefs, seed=seed) for n, seed in ((10, 1), (300, 2)))
    save(fit(ten, date="d").calibrations[1], tmp_path)
    error = [
        np.median(np.abs(predict(new.x, Store(folder)).time_s / new.time_s - 1))
        for folder in (tmp_path / "none", tmp_path)
    ]
    assert error[1] < 0.1 < error[0]


# -- what is kept back -----------------------------------------------------------------------------


def test_a_fifth_of_the_shapes_is_held_out_the_same_ones_every_time():
    x = _shapes("gemm", 5000)
    out = held_out(x)
    assert 0.18 < out.mean() < 0.22
    assert (held_out(x) == out).all()
    order = np.random.default_rng(0).permutation(x.n)
    assert (held_out(x.take(order)) == out[order]).all()


def test_a_shape_is_held_out_under_every_device_runtime_and_format_at_once():
    x = _shapes("gemm", 500)
    other = _shapes("gemm", 500, device="l4", runtime="torch", dtype="fp8", impl="x")
    assert (held_out(x) == held_out(other)).all()


def test_two_splits_have_nothing_to_do_with_each_other():
    x = _shapes("gemm", 5000)
    both = held_out(x) & held_out(x, salt=1)
    assert 0.03 < both.mean() < 0.05  # a fifth of a fifth


def _poisoned(data, where, times=50.0):
    return replace(data, time_s=np.where(where, times * data.time_s, data.time_s))


def test_held_out_rows_are_never_in_the_fit_that_predicts_them():
    data = _data("rowwise", 400, noise=0.05)
    test = held_out(data.x)
    (group,) = groups(data.x, data.s)
    _, scored = fit_own(data, group, date="d")
    _, after = fit_own(_poisoned(data, test), group, date="d")
    assert scored.data.x.n == test.sum()
    assert (scored.data.time_s == data.time_s[test]).all()
    assert (after.predicted_s == scored.predicted_s).all()
    _, moved = fit_own(_poisoned(data, ~test), group, date="d")  # the test can fail
    assert not np.allclose(moved.predicted_s, scored.predicted_s)


def test_the_interval_of_a_row_is_not_made_of_that_row():
    data = _data("rowwise", 600, noise=0.05)
    (group,) = groups(data.x, data.s)
    _, scored = fit_own(data, group, date="d")
    rest = held_out(data.x) & held_out(data.x, share=0.5, salt=1)
    _, after = fit_own(_poisoned(data, rest), group, date="d")
    mine = held_out(scored.data.x, share=0.5, salt=1)
    assert np.allclose(after.high_s[mine], scored.high_s[mine])
    assert (after.high_s[~mine] > 3 * scored.high_s[~mine]).mean() > 0.5


def _three(n=300):
    """One family on three devices of three architectures, each with its own truth."""
    return gathered([
        _timed("rowwise", _shapes("rowwise", n, seed, device=device), dict(stream=stream), 0.03)
        for seed, (device, stream) in enumerate(
            (("h100-sxm", 0.8), ("a100-sxm-80gb", 0.7), ("l4", 0.6))
        )
    ])[0]  # fmt: skip


def _across(data):
    (scored,) = [s for s in fit(data, date="d").scored if not s.seen]
    return scored


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "l4"])
def test_a_device_left_out_is_really_left_out(device, monkeypatch):
    fits = []

    def spied(used, owns, date, real=fitting._general):
        fits.append({*used.s.device} | {own.device for own in owns})
        return real(used, owns, date)

    monkeypatch.setattr(fitting, "_general", spied)
    data = _three(80)
    _across(data)
    assert fits[0] == {"h100-sxm", "a100-sxm-80gb", "l4"}
    assert sorted(map(len, fits)) == [2, 2, 2, 3]
    assert sum(device not in used for used in fits[1:]) == 1


@pytest.mark.parametrize(("device", "machine"), [
    ("cpu-box-2t", "cpu-box"), ("cpu-box-16t", "cpu-box"), ("cpu-box-2", "cpu-box-2"),
    ("h100-sxm", "h100-sxm"), ("rtx-4t", "rtx-4t"),
])  # fmt: skip
def test_threads_are_not_another_processor(device, machine):
    assert machine_of(device) == machine


def test_one_device_under_two_names_is_left_out_under_both(monkeypatch):
    """As a processor with two counts of threads: neither fit nor baseline may use the other."""
    fits = []

    def spied(used, owns, date, real=fitting._general):
        fits.append({*used.s.device} | {own.device for own in owns})
        return real(used, owns, date)

    def one_box(device):
        return "box" if device in ("l4", "h100-sxm") else device

    monkeypatch.setattr(fitting, "_general", spied)
    for module in (fitting, data_module):
        monkeypatch.setattr(module, "machine_of", one_box)
    data = _three(80)
    scored = _across(data)
    assert sorted(fits[1:], key=len) == [{"a100-sxm-80gb"}, {"h100-sxm", "l4"}]
    for device in ("l4", "h100-sxm"):
        mine = np.flatnonzero(data.s.device == device)
        ((_, known),) = _kept_apart(data, scored.data, mine, seen=False)
        assert set(data.take(known).s.device) == {"a100-sxm-80gb"}


@pytest.mark.parametrize("given", [{}, {"batch": 1.0}, {"batch": 1.0, "dtype": "bf16"}])
def test_a_shape_is_one_whether_its_defaults_are_written_or_not(given):
    """Else a row that a table writes out in full would be learnt from one that does not."""
    bare = _timed("gemm", _shapes("gemm", 300, 3), GEMM)
    columns = {**bare.rows.number, **bare.rows.text}
    columns = {name: v for name, v in columns.items() if name not in ("batch", "dtype")}
    x = rows(300, **columns, **given)
    (data,) = gathered([replace(bare, rows=x)])
    assert (held_out(data.x) == held_out(gathered([bare])[0].x)).all()


def test_what_is_said_of_a_device_left_out_does_not_depend_on_its_times():
    data = _three()
    mine = data.s.device == "l4"
    before, after = _across(data), _across(_poisoned(data, mine, 1.01))
    at = before.data.s.device == "l4"
    assert np.allclose(after.predicted_s[at], before.predicted_s[at], rtol=1e-12)
    assert not np.allclose(after.predicted_s[~at], before.predicted_s[~at], rtol=1e-12)


def test_every_device_counts_by_the_root_of_its_rows():
    """90 rows of one device and 10 of another weigh 3 to 1, not 9 to 1."""
    data = _three(100)
    data = data.take(np.flatnonzero(data.s.device != "l4")[:110])
    names, counts = np.unique(data.s.device.astype(str), return_counts=True)
    total = [balance(data)[data.s.device == name].sum() for name in names]
    assert sorted(counts) == [10, 100]
    assert total == pytest.approx(np.sqrt(counts))


def test_a_sibling_left_out_is_told_by_the_other_one():
    data = gathered([
        _timed("rowwise", _shapes("rowwise", 150, seed, device=device), dict(stream=0.3))
        for seed, device in enumerate(("h100-sxm", "h100-pcie"))
    ])[0]  # fmt: skip
    scored = _across(data)
    assert np.median(np.abs(scored.predicted_s / scored.data.time_s - 1)) < 0.02


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_cover_four_fifths_of_rows_not_used():
    noise = 0.1
    data = _data("rowwise", 5000, noise=noise)
    (group,) = groups(data.x, data.s)
    own, scored = fit_own(data, group, date="d")
    inside = (scored.low_s <= scored.data.time_s) & (scored.data.time_s <= scored.high_s)
    assert 0.75 < inside.mean() < 0.85
    # and the interval that is kept, on rows that nothing has seen
    new = _data("rowwise", 3000, noise=noise, seed=9)
    said = fitting.predicted(new, own, None)
    low, high = fitting.bounds(new, own.spread, said)
    assert 0.75 < ((low <= new.time_s) & (new.time_s <= high)).mean() < 0.85


def test_more_noise_is_a_wider_interval_and_a_larger_error():
    found = []
    for noise in (0.02, 0.2):
        data = _data("rowwise", 1500, noise=noise)
        (group,) = groups(data.x, data.s)
        found.append(fit_own(data, group, date="d")[0])
    width = [own.spread["bandwidth"][1] - own.spread["bandwidth"][0] for own in found]
    assert width[1] > 5 * width[0]
    assert found[1].errors.median > 5 * found[0].errors.median
    assert found[0].errors.split == "a fifth of the shapes held out"


def test_a_device_of_few_rows_is_judged_on_rows_its_fit_did_not_see():
    """Each fifth in turn: the error that is stated is that of new rows, and so is the interval."""
    stated, true, inside = [], [], []
    for seed in range(12):
        few, new = (_data("gemm", n, noise=0.1, seed=s) for n, s in ((12, seed), (200, 50 + seed)))
        (group,) = groups(few.x, few.s)
        own, scored = fit_own(few, group, date="d")
        assert own.trees is None
        assert own.errors.split == "each fifth of the shapes held out in turn"
        assert own.errors.n == scored.data.x.n == 12
        said = fitting.predicted(new, own, None)
        low, high = fitting.bounds(new, own.spread, said)
        stated.append(own.errors.median)
        true.append(np.median(np.abs(said / new.time_s - 1)))
        inside.append(np.mean((low <= new.time_s) & (new.time_s <= high)))
    assert np.mean(stated) == pytest.approx(np.mean(true), rel=0.4)
    assert 0.7 < np.mean(inside) < 0.95


def test_no_row_of_a_few_is_in_the_fit_that_predicts_it():
    data = _data("rowwise", 20, noise=0.05)
    (group,) = groups(data.x, data.s)
    _, before = fit_own(data, group, date="d")
    for i in range(0, 20, 5):
        _, after = fit_own(_poisoned(data, np.arange(20) == i), group, date="d")
        assert after.predicted_s[i] == before.predicted_s[i]
        assert (after.predicted_s != before.predicted_s).sum() > 5


def test_one_shape_alone_judges_itself_and_says_so():
    one = _data("rowwise", 40)
    same = {name: np.full(40, column[0]) for name, column in one.x.number.items()}
    formats = np.array(["bf16", "fp16", "fp32", "fp8"] * 10, dtype=object)
    x = replace(one.x, number=same, text={**one.x.text, "dtype": formats})
    data = replace(one, x=x, s=sheet(x), time_s=np.full(40, 1e-4))
    (group,) = groups(data.x, data.s)
    own, scored = fit_own(data, group, date="d")
    assert own.errors.split == "rows used for fitting"
    assert scored is None
    own, scored = fit_own(data.take(np.repeat(np.arange(40), 3)), group, date="d")
    assert own.errors.split == "rows used for fitting"


# -- residuals -------------------------------------------------------------------------------------


def test_tree_arrays_answer_what_lightgbm_answers():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3000, 4)).astype(np.float32).round(1)  # many values on the cuts
    left = np.sin(3 * matrix[:, 0]) + (matrix[:, 1] > 0.3) * matrix[:, 2]
    names = ["a", "b", "c", "d"]
    data = lightgbm.Dataset(matrix, left, feature_name=names)
    settings = dict(solve.FIXED, num_leaves=31, learning_rate=0.1)
    booster = lightgbm.train(settings, data, 60)
    ours = trees_of_booster(booster)(dict(zip(names, matrix.T, strict=True)))
    theirs = booster.predict(matrix, pred_leaf=True)
    expected = np.zeros(len(matrix))
    for t, tree in enumerate(booster.dump_model()["tree_info"]):
        leaf = [booster.get_leaf_output(t, i) for i in range(tree["num_leaves"])]
        expected += (np.round(np.array(leaf) / STEP) * STEP)[theirs[:, t]]
    assert np.allclose(ours, expected, atol=1e-12)
    assert np.abs(ours - booster.predict(matrix)).max() < 60 * STEP / 2


def test_compiled_and_plain_walks_give_the_same(monkeypatch):
    data = _data("rowwise", 300, noise=0.1)
    features = data.module.features(data.x, data.s)
    found = learn(features, np.log(data.time_s), settings=fitting.OWN)
    compiled = found(features)
    monkeypatch.setattr(trees_module, "_walk", lambda: trees_module._walk_all)
    assert (found(features) == compiled).all()


def test_trees_learn_what_the_physics_leaves():
    data = _data("rowwise", 2000)
    odd = data.x.get("width") % 2 == 1
    data = replace(data, time_s=np.where(odd, 1.5, 1.0) * data.time_s)
    (group,) = groups(data.x, data.s)
    own, scored = fit_own(data, group, date="d")
    assert own.trees is not None
    assert np.median(np.abs(scored.predicted_s / scored.data.time_s - 1)) < 0.03


def test_a_feature_that_is_not_finite_is_refused():
    with pytest.raises(SpecError, match="is not finite"):
        learn({"a": np.array([1.0, np.nan])}, np.zeros(2), settings=fitting.OWN)


def test_a_residual_over_all_devices_is_kept_only_where_it_helps():
    # every device has its own constant: what others leave says nothing about the next one
    data = gathered([
        _timed("rowwise", _shapes("rowwise", 250, seed, device=device), {}, 0.3, seed)
        for seed, device in enumerate(("h100-sxm", "a100-sxm-80gb", "l4", "v100-sxm2-16gb"))
    ])[0]  # fmt: skip
    done = fit(data, date="d")
    (scored,) = [s for s in done.scored if not s.seen]
    general = done.calibrations[0]
    apart = np.median(np.abs(np.log(scored.data.time_s / scored.predicted_s)))
    plain = fitting.across_devices(data, replace(general, trees=None))
    assert apart <= np.median(np.abs(np.log(data.time_s / plain))) * 1.2


# -- the same every time ---------------------------------------------------------------------------


def _bytes(data, folder):
    done = fit(data, date="2026-11-21")
    return {p.name: p.read_bytes() for p in (save(c, folder) for c in done.calibrations)}


def test_a_fit_gives_the_same_bytes_twice(tmp_path):
    data = _three(150)
    first = _bytes(data, tmp_path / "a")
    assert set(first) == {"general.npz", "h100-sxm--vllm--0.24.0.npz", "l4--vllm--0.24.0.npz",
                          "a100-sxm-80gb--vllm--0.24.0.npz"}  # fmt: skip
    assert _bytes(data, tmp_path / "b") == first


def test_a_calibration_predicts_the_same_before_and_after_its_file(tmp_path):
    data = _data("rowwise", 400, noise=0.05)
    own = fit(data, date="d").calibrations[1]
    save(own, tmp_path)
    said = fitting.predicted(data, own, None)
    assert predict(data.x, Store(tmp_path)).time_s == pytest.approx(said, rel=1e-6)


def test_several_processes_fit_the_same(tmp_path):
    # fewer rows than trees need, so that other processes take no longer
    tables = [_timed("rowwise", _shapes("rowwise", 50), {}),
              _timed("collective", _shapes("collective", 40), {})]  # fmt: skip
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        paths = write(fitted(gathered(tables), workers=workers), folder)
        found.append({str(p.relative_to(folder)): p.read_bytes() for p in paths})
    assert set(found[0]) >= {"rowwise/h100-sxm--vllm--0.24.0.npz",
                             "collective/h100-sxm--vllm--0.24.0.npz"}  # fmt: skip
    assert found[0] == found[1]


def test_rows_without_a_family_or_a_data_sheet_are_left_out():
    good = _shapes("gemm", 3)
    strange = joined([good, rows(1, op="fft", device="h100-sxm"),
                      rows(1, op="gemm", device="nobody's", m=1.0, n=1.0, k=1.0)])  # fmt: skip
    table = Table(strange, np.full(5, 1e-4), "t", "o", "l")
    (data,) = gathered([table])
    assert data.x.n == 3
    assert gathered([table], only="moe") == []
    assert left_out([table, table]) == ["  2 of fft, which no family of operators answers"]


# -- baselines and error tables --------------------------------------------------------------------


def test_the_roofline_is_the_data_sheet_alone():
    x = rows(2, op="gemm", device="h100-sxm", m=[4096.0, 1.0], n=4096.0, k=4096.0)
    x = x.filled(family("gemm").DEFAULTS)
    s = sheet(x)
    found = roofline_s(x, s, family("gemm").counts(x))
    assert found[0] == pytest.approx(2 * 4096**3 / s.flop_per_s[0])
    assert found[1] == pytest.approx(2 * (4096 * 4096 + 2 * 4096) / s.hbm_bytes_per_s[0])


def test_the_nearest_row_is_scaled_by_the_ratio_of_data_sheets():
    known = _data("gemm", 50)
    asked = replace(known.take(np.arange(5)), time_s=np.full(5, np.nan))
    assert nearest_scaled_s(known, asked) == pytest.approx(known.time_s[:5])
    twice = replace(known, time_s=2 * known.time_s)
    assert nearest_scaled_s(twice, asked) == pytest.approx(2 * known.time_s[:5])
    assert np.isnan(nearest_scaled_s(known.take(np.arange(0)), asked)).all()


def test_a_row_of_twice_the_work_is_taken_to_last_twice_as_long():
    """4096 x 4096 x 4096 is bound by arithmetic on an H100, and so is twice as wide a product; an
    L4 has 121 of its 989 Tflop/s."""

    def product(n, device):
        x = rows(1, op="gemm", device=device, dtype="bf16", m=4096.0, n=n, k=4096.0)
        return gathered([Table(x, np.array([2e-4]), "t", "o", "l")])[0]

    known = product(4096.0, "h100-sxm")
    assert nearest_scaled_s(known, product(8192.0, "h100-sxm"))[0] == pytest.approx(4e-4, rel=0.01)
    peak = [sheet(product(1.0, d).x).flop_per_s[0] for d in ("h100-sxm", "l4")]
    other = nearest_scaled_s(known, product(4096.0, "l4"))[0]
    assert other == pytest.approx(2e-4 * peak[0] / peak[1], rel=0.01)


@pytest.mark.parametrize("n", [30, 300])
def test_the_nearest_row_is_never_the_row_itself(n):
    data = _data("gemm", n)
    scored = [s for s in fit(data, date="d").scored if s.seen]
    (judged,) = [judge(data, s) for s in scored]
    assert (judged.nearest > 1e-9).all()
    assert np.isfinite(judged.nearest).all()


def test_a_scored_table_that_no_fit_saw_has_no_rows_to_be_near_to(tmp_path):
    data = _data("gemm", 30)
    said = np.full(30, 1e-4)
    judged = judge(data.take(np.arange(0)), fitting.Scored(data, True, said, said, said))
    assert np.isnan(judged.nearest).all()


def _table(path, x, time_s):
    names = ("op", "device", "runtime", "dtype", "n_tokens", "width")
    columns = {n: x.words(n) if n in x.text else x.get(n) for n in names}
    write_columns(path, columns | {"time_us": time_s * 1e6})
    return path


@pytest.fixture
def mine(tmp_path):
    made = _timed("rowwise", _shapes("rowwise", 300), ROWWISE, 0.05)
    return _table(tmp_path / "mine.csv", made.rows, made.time_s)


@pytest.fixture
def other(tmp_path):
    made = _timed("rowwise", _shapes("rowwise", 100, 5), ROWWISE, 0.05, 5)
    return _table(tmp_path / "other.csv", made.rows, made.time_s)


def test_a_table_that_was_fitted_to_is_held_out_and_a_new_one_is_predicted(tmp_path, mine, other):
    write(calibrate([mine]), tmp_path / "store")
    said = []
    store = Store(tmp_path / "store")
    judged = accuracy([mine, other], calibrations=store, say=said.append)
    assert said == ["1 table was never fitted to, 1 held out and refitted"]
    rows_of = {j.scored.data.tables[0].name[:5]: j.scored.data.x.n for j in judged}
    assert rows_of["other"] == 100  # every row: none was used
    assert 30 < rows_of["mine."] < 90  # a fifth of the shapes
    assert all(np.median(j.ape) < 0.1 for j in judged)


@pytest.mark.parametrize("change", ["moved", "renamed", "appended"])
def test_rows_of_a_fit_are_not_taken_for_new_when_their_file_moves_or_grows(
    tmp_path, mine, other, change
):
    write(calibrate([mine]), tmp_path / "store")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    text_of = mine.read_text()
    if change == "appended":
        text_of += other.read_text().split("\n", 1)[1]
    path = folder / ("renamed.csv" if change == "renamed" else "mine.csv")
    path.write_text(text_of)
    said = []
    accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "0 tables were never fitted to, 1 held out and refitted" in said[-1]


def _retimed(lines, time_of, name="time_us"):
    """The lines of a table with other times."""
    at = lines[0].split(",").index("time_us")
    rows_ = [line.split(",") for line in lines]
    rows_[0][at] = name
    for i, cells in enumerate(rows_[1:]):
        cells[at] = f"{time_of(i, float(cells[at])):.9g}"
    return [",".join(cells) for cells in rows_]


def _changed(lines, change):
    head, *body = lines
    if change == "part":
        return [head, *body[::3]]
    if change == "other unit":
        return _retimed(lines, lambda i, time_us: 1e-6 * time_us, "time_s")
    return [head, *reversed(body), *_retimed(lines, lambda i, time_us: 1.1 * time_us)[1:6]]


@pytest.mark.parametrize("change", ["part", "other order, with rows added", "other unit"])
def test_rows_of_a_fit_are_told_again_in_another_file(tmp_path, mine, change):
    """Neither name nor content of the file is the same, and no row of it is new."""
    write(calibrate([mine]), tmp_path / "store")
    path = tmp_path / "another.csv"
    path.write_text("\n".join(_changed(mine.read_text().splitlines(), change)) + "\n")
    said = []
    judged = accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "0 tables were never fitted to, 1 held out and refitted" in said[-1]
    assert all(j.scored.data.x.n < len(path.read_text().splitlines()) - 1 for j in judged)


def test_a_new_measurement_of_the_same_shapes_is_new(tmp_path, mine):
    """Two rows that took the same time by chance do not make it known."""
    write(calibrate([mine]), tmp_path / "store")
    lines_ = mine.read_text().splitlines()
    anew = _retimed(lines_, lambda i, time_us: time_us * (1.0 if i < 2 else 1.02))
    path = tmp_path / "anew.csv"
    path.write_text("\n".join(anew) + "\n")
    said = []
    accuracy([path], calibrations=Store(tmp_path / "store"), say=said.append)
    assert "1 table was never fitted to, 0 held out and refitted" in said[-1]


def test_what_was_left_out_or_refused_is_said(tmp_path, mine):
    body = mine.read_text().splitlines()
    zero = body[1].rpartition(",")[0] + ",0"
    mine.write_text("\n".join([*body, body[1], zero, zero]) + "\n")
    said = []
    accuracy([mine], calibrations=Store(tmp_path / "none"), say=said.append)
    assert "  2 time of 0" in said
    assert "  1 repeated, median taken" in said


def test_error_tables_have_a_line_a_slice_and_one_over_all(tmp_path, other):
    judged = accuracy([other], calibrations=Store(tmp_path / "none"))
    table = lines(judged, ("op", "regime"))
    assert table[-1].slice == ("all", "all")
    assert table[-1].n == sum(line.n for line in table[:-1]) == 100
    assert not table[-1].seen
    shown = text(table, ("op", "regime")).splitlines()
    assert shown[0].startswith("| op | regime | device is | rows | median | p90 |")
    assert "| unseen | 100 |" in shown[-1]
    assert shown[-1].endswith("| - |")  # no row is known that could be nearest


def test_errors_are_those_of_the_prediction(tmp_path, other):
    (judged,) = accuracy([other], calibrations=Store(tmp_path / "none"))
    data, said = judged.scored.data, judged.scored.predicted_s
    assert judged.ape == pytest.approx(np.abs(said - data.time_s) / data.time_s)
    *_, line = lines([judged])
    assert line.median == pytest.approx(np.median(judged.ape))
    assert line.p90 == pytest.approx(np.quantile(judged.ape, 0.9))


@pytest.mark.parametrize(
    ("by", "expected"), [("op", [("op",)]), ("op+device, dtype", [("op", "device"), ("dtype",)])]
)
def test_splits_are_names_joined_by_plus(by, expected):
    assert splits(by) == expected


def test_a_split_or_family_that_is_not_known_is_said_with_the_nearest():
    with pytest.raises(SpecError) as caught:
        splits("opp,device+regim")
    assert [p.where for p in caught.value.problems] == ["--by opp", "--by regim"]
    assert "did you mean" in caught.value.problems[1].fix
    with pytest.raises(SpecError, match="names nothing"):
        splits(" , ")
    with pytest.raises(SpecError, match="did you mean rowwise"):
        check_family("rowise")


# -- the commands ----------------------------------------------------------------------------------


def test_a_table_is_calibrated_predicted_and_judged_from_the_command_line(run, tmp_path, other):
    made = _timed("rowwise", _shapes("rowwise", 55), ROWWISE, 0.05)  # too few for trees: quick
    _table(tmp_path / "few.csv", made.rows, made.time_s)
    done = run("calibrate", "ops", "few.csv", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("55 rows of 1 table\n")
    assert "\nwrote " in done.stderr
    assert "| norm | measured |" in done.stdout
    done = run("predict", "ops", other.name, "-q")
    assert done.stdout.count('"fitted: h100-sxm vllm 0.24.0, 55 rows"') == 100
    assert done.stderr == ""
    done = run("accuracy", other.name, "--by", "op+device,regime", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["by"]
    assert set(found) == {"op+device", "regime"}
    line = found["op+device"][0]
    assert line["slice"] == ["norm", "h100-sxm"]
    assert line["seen"]
    assert line["n"] == 100
    assert 0.01 < line["median"] < 0.15


def test_ten_rows_of_a_device_that_ships_are_said_to_be_few(run, tmp_path):
    x = _shapes("gemm", 10, 5)
    made = _timed("gemm", x, GEMM)
    path = tmp_path / "ten.csv"
    told = {name: x.words(name) for name in ("device", "runtime", "op", "dtype")}
    write_columns(path, told | {n: x.get(n) for n in "mnk"} | {"time_s": made.time_s})
    done = run("calibrate", "ops", path)
    assert done.returncode == 0, done.stderr
    assert "gemm: 10 rows of h100-sxm are few; the calibration that ships, of " in done.stderr
    path.write_text("device,op,dtype,m,n,k,runtime\nh100-sxm,gemm,bf16,64,4096,4096,vllm 0.24.0\n")
    done = run("predict", "ops", path)
    assert "fitted: h100-sxm vllm 0.24.0" in done.stdout
    assert " 10 rows" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by", "oo,devicee"], "--by oo: splits no table"),
        (["--family", "gem"], "did you mean gemm"),
        (["--family", "gemm"], "no row of the family gemm"),
        (["--format", "neusigt"], "format 'neusigt': is not known"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(run, other, arguments, sentence):
    done = run("accuracy", other.name, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_that_cannot_be_written_exits_with_2(run, other):
    done = run("calibrate", "ops", other.name, "-o", other.name, "--workers", 1)
    assert done.returncode == 2
    assert "is no folder that can be written" in done.stderr
    assert "Traceback" not in done.stderr
