"""Fits of operator costs: what is known is found again, and twice the same."""

from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from operator_data import GEMM, ROWWISE, data_of, shapes_of, three_devices, times_of

from forerun.calibrate import operators as fitting
from forerun.calibrate import solve
from forerun.calibrate.data import gathered
from forerun.calibrate.operators import fit, fit_own
from forerun.calibrate.run import fitted, left_out, write
from forerun.calibrate.solve import fit_coefs, learn
from forerun.cost import trees as trees_module
from forerun.cost.calibration import Store, save
from forerun.cost.families import family
from forerun.cost.operators import groups, predict
from forerun.cost.rows import joined, rows
from forerun.cost.sheet import sheet
from forerun.cost.trees import STEP, trees_of_booster
from forerun.errors import SpecError
from forerun.measure.tables import Table

pytestmark = pytest.mark.usefixtures("few_trees")


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
    data = data_of(name, coefs=coefs)
    keys, found = fit_coefs(data)
    assert len(keys) == 1
    own = dict(zip((c.name for c in data.module.COEFS), found[0], strict=True))
    for coef, value in coefs.items():
        assert own[coef] == pytest.approx(value, rel=within), coef
    new = data_of(name, 300, coefs=coefs, seed=7)
    said = new.module.physics(new.x, new.s, own)
    assert np.median(np.abs(said / new.time_s - 1)) < 0.01


def test_coefficients_survive_a_tenth_of_the_rows_being_wrong():
    data = data_of("rowwise", noise=0.02)
    wrong = np.random.default_rng(5).random(data.x.n) < 0.1
    _, found = fit_coefs(replace(data, time_s=np.where(wrong, 5 * data.time_s, data.time_s)))
    assert found[0][0] == pytest.approx(ROWWISE["stream"], rel=0.1)


def test_each_key_has_coefficients_of_its_own_the_most_measured_first():
    parts = [
        times_of("rowwise", shapes_of("rowwise", n, impl=impl), dict(stream=stream))
        for impl, n, stream in (("rare", 200, 0.3), ("usual", 600, 0.7))
    ]
    (data,) = gathered(parts)
    keys, found = fit_coefs(data)
    assert keys == ("norm|bf16|usual", "norm|bf16|rare")
    assert found[:, 0] == pytest.approx([0.7, 0.3], rel=0.05)


def test_few_rows_stay_near_what_the_data_sheet_says_and_many_do_not():
    prior = family("rowwise").start(*_asked("rowwise"))["stream"][0]
    wild = dict(stream=prior / 3)
    few = fit_coefs(data_of("rowwise", 2, coefs=wild))[1][0][0]
    many = fit_coefs(data_of("rowwise", 500, coefs=wild))[1][0][0]
    assert abs(np.log(many / wild["stream"])) < 0.05
    assert abs(np.log(few / prior)) < abs(np.log(many / prior))


def _asked(name):
    x = shapes_of(name, 3).filled(family(name).DEFAULTS)
    return x, sheet(x)


def test_what_others_leave_is_not_added_to_a_device_of_few_rows(tmp_path):
    """Its coefficients were fitted, and its errors stated, without a residual."""
    few = data_of("rowwise", 40)
    four = [data_of("rowwise", 900, device=name) for name in ("l4", "l40s", "a10", "t4")]
    x = joined([data.x for data in four])
    time_s = np.concatenate([data.time_s for data in four])
    others = replace(
        four[0], x=x, s=sheet(x), time_s=3 * time_s * (1 + (x.get("width") > 2000)),
        table=np.concatenate([data.table for data in four]),
    )  # fmt: skip
    for own in (fit(others, date="d").calibrations[0], fit(few, date="d").calibrations[1]):
        save(own, tmp_path)
    new = data_of("rowwise", 300, seed=3)
    store = Store(tmp_path)
    assert store.general("rowwise").trees is not None
    assert np.median(np.abs(predict(new.x, store).time_s / new.time_s - 1)) < 0.05


def test_ten_rows_of_a_new_device_make_it_better_than_its_data_sheet(tmp_path):
    coefs = dict(stream=0.3, launch_s=20e-6)
    ten, new = (data_of("rowwise", n, coefs=coefs, seed=seed) for n, seed in ((10, 1), (300, 2)))
    save(fit(ten, date="d").calibrations[1], tmp_path)
    error = [
        np.median(np.abs(predict(new.x, Store(folder)).time_s / new.time_s - 1))
        for folder in (tmp_path / "none", tmp_path)
    ]
    assert error[1] < 0.1 < error[0]


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


def test_a_tree_without_a_cut_is_one_leaf():
    matrix = np.zeros((50, 1), dtype=np.float32)
    data = lightgbm.Dataset(matrix, np.full(50, 0.5), feature_name=["a"])
    trees = trees_of_booster(lightgbm.train(dict(solve.FIXED, verbose=-1), data, 3))
    assert len(trees.feature) == len(trees.roots)
    assert trees({"a": np.zeros(2)}) == pytest.approx(0.5, abs=STEP)


def test_compiled_and_plain_walks_give_the_same(monkeypatch):
    data = data_of("rowwise", 300, noise=0.1)
    features = data.module.features(data.x, data.s)
    found = learn(features, np.log(data.time_s), settings=fitting.OWN)
    compiled = found(features)
    monkeypatch.setattr(trees_module, "_walk", lambda: trees_module._walk_all)
    assert (found(features) == compiled).all()


def test_trees_learn_what_the_physics_leaves():
    data = data_of("rowwise", 2000)
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
        times_of("rowwise", shapes_of("rowwise", 250, seed, device=device), {}, 0.3, seed)
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
    data = three_devices(150)
    first = _bytes(data, tmp_path / "a")
    assert set(first) == {"general.npz", "h100-sxm--vllm--0.24.0.npz", "l4--vllm--0.24.0.npz",
                          "a100-sxm-80gb--vllm--0.24.0.npz"}  # fmt: skip
    assert _bytes(data, tmp_path / "b") == first


def test_a_calibration_predicts_the_same_before_and_after_its_file(tmp_path):
    data = data_of("rowwise", 400, noise=0.05)
    own = fit(data, date="d").calibrations[1]
    save(own, tmp_path)
    said = fitting.predicted(data, own, None)
    assert predict(data.x, Store(tmp_path)).time_s == pytest.approx(said, rel=1e-6)


def test_several_processes_fit_the_same(tmp_path):
    # fewer rows than trees need, so that other processes take no longer
    tables = [times_of("rowwise", shapes_of("rowwise", 50), {}),
              times_of("collective", shapes_of("collective", 40), {})]  # fmt: skip
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        paths = write(fitted(gathered(tables), workers=workers), folder)
        found.append({str(p.relative_to(folder)): p.read_bytes() for p in paths})
    assert set(found[0]) >= {"rowwise/h100-sxm--vllm--0.24.0.npz",
                             "collective/h100-sxm--vllm--0.24.0.npz"}  # fmt: skip
    assert found[0] == found[1]


def test_rows_without_a_family_or_a_data_sheet_are_left_out():
    good = shapes_of("gemm", 3)
    strange = joined([good, rows(1, op="fft", device="h100-sxm"),
                      rows(1, op="gemm", device="nobody's", m=1.0, n=1.0, k=1.0)])  # fmt: skip
    table = Table(strange, np.full(5, 1e-4), "t", "o", "l")
    (data,) = gathered([table])
    assert data.x.n == 3
    assert gathered([table], only="moe") == []
    assert left_out([table, table]) == ["  2 of fft, which no family of operators answers"]
