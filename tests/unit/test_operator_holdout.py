"""Fits of operator costs: what was kept back is never seen, and intervals are of such rows."""

from dataclasses import replace

import numpy as np
import pytest
from operator_data import GEMM, data_of, shapes_of, three_devices, times_of

from forerun.calibrate import data as data_module
from forerun.calibrate import operators as fitting
from forerun.calibrate.data import balance, gathered, machine_of
from forerun.calibrate.judged import _kept_apart
from forerun.calibrate.operators import fit, fit_own
from forerun.calibrate.split import held_out
from forerun.cost.operators import groups
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet

pytestmark = pytest.mark.usefixtures("few_trees")

# -- what is kept back -----------------------------------------------------------------------------


def test_a_fifth_of_the_shapes_is_held_out_the_same_ones_every_time():
    x = shapes_of("gemm", 5000)
    out = held_out(x)
    assert 0.18 < out.mean() < 0.22
    assert (held_out(x) == out).all()
    order = np.random.default_rng(0).permutation(x.n)
    assert (held_out(x.take(order)) == out[order]).all()


def test_a_shape_is_held_out_under_every_device_runtime_and_format_at_once():
    x = shapes_of("gemm", 500)
    other = shapes_of("gemm", 500, device="l4", runtime="torch", dtype="fp8", impl="x")
    assert (held_out(x) == held_out(other)).all()


def test_two_splits_have_nothing_to_do_with_each_other():
    x = shapes_of("gemm", 5000)
    both = held_out(x) & held_out(x, salt=1)
    assert 0.03 < both.mean() < 0.05  # a fifth of a fifth


def poisoned(data, where, times=50.0):
    return replace(data, time_s=np.where(where, times * data.time_s, data.time_s))


def test_held_out_rows_are_never_in_the_fit_that_predicts_them():
    data = data_of("rowwise", 400, noise=0.05)
    test = held_out(data.x)
    (group,) = groups(data.x, data.s)
    _, scored = fit_own(data, group, date="d")
    _, after = fit_own(poisoned(data, test), group, date="d")
    assert scored.data.x.n == test.sum()
    assert (scored.data.time_s == data.time_s[test]).all()
    assert (after.predicted_s == scored.predicted_s).all()
    _, moved = fit_own(poisoned(data, ~test), group, date="d")  # the test can fail
    assert not np.allclose(moved.predicted_s, scored.predicted_s)


def test_the_interval_of_a_row_is_not_made_of_that_row():
    data = data_of("rowwise", 600, noise=0.05)
    (group,) = groups(data.x, data.s)
    _, scored = fit_own(data, group, date="d")
    rest = held_out(data.x) & held_out(data.x, share=0.5, salt=1)
    _, after = fit_own(poisoned(data, rest), group, date="d")
    mine = held_out(scored.data.x, share=0.5, salt=1)
    assert np.allclose(after.high_s[mine], scored.high_s[mine])
    assert (after.high_s[~mine] > 3 * scored.high_s[~mine]).mean() > 0.5


def across(data):
    (scored,) = [s for s in fit(data, date="d").scored if not s.seen]
    return scored


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb", "l4"])
def test_a_device_left_out_is_really_left_out(device, monkeypatch):
    fits = []

    def spied(used, owns, date, real=fitting._general):
        fits.append({*used.s.device} | {own.device for own in owns})
        return real(used, owns, date)

    monkeypatch.setattr(fitting, "_general", spied)
    data = three_devices(80)
    across(data)
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
    data = three_devices(80)
    scored = across(data)
    assert sorted(fits[1:], key=len) == [{"a100-sxm-80gb"}, {"h100-sxm", "l4"}]
    for device in ("l4", "h100-sxm"):
        mine = np.flatnonzero(data.s.device == device)
        ((_, known),) = _kept_apart(data, scored.data, mine, seen=False)
        assert set(data.take(known).s.device) == {"a100-sxm-80gb"}


@pytest.mark.parametrize("given", [{}, {"batch": 1.0}, {"batch": 1.0, "dtype": "bf16"}])
def test_a_shape_is_one_whether_its_defaults_are_written_or_not(given):
    """Else a row that a table writes out in full would be learnt from one that does not."""
    bare = times_of("gemm", shapes_of("gemm", 300, 3), GEMM)
    columns = {**bare.rows.number, **bare.rows.text}
    columns = {name: v for name, v in columns.items() if name not in ("batch", "dtype")}
    x = rows(300, **columns, **given)
    (data,) = gathered([replace(bare, rows=x)])
    assert (held_out(data.x) == held_out(gathered([bare])[0].x)).all()


def test_what_is_said_of_a_device_left_out_does_not_depend_on_its_times():
    data = three_devices()
    mine = data.s.device == "l4"
    before, after = across(data), across(poisoned(data, mine, 1.01))
    at = before.data.s.device == "l4"
    assert np.allclose(after.predicted_s[at], before.predicted_s[at], rtol=1e-12)
    assert not np.allclose(after.predicted_s[~at], before.predicted_s[~at], rtol=1e-12)


def test_every_device_counts_by_the_root_of_its_rows():
    """90 rows of one device and 10 of another weigh 3 to 1, not 9 to 1."""
    data = three_devices(100)
    data = data.take(np.flatnonzero(data.s.device != "l4")[:110])
    names, counts = np.unique(data.s.device.astype(str), return_counts=True)
    total = [balance(data)[data.s.device == name].sum() for name in names]
    assert sorted(counts) == [10, 100]
    assert total == pytest.approx(np.sqrt(counts))


def test_a_sibling_left_out_is_told_by_the_other_one():
    data = gathered([
        times_of("rowwise", shapes_of("rowwise", 150, seed, device=device), dict(stream=0.3))
        for seed, device in enumerate(("h100-sxm", "h100-pcie"))
    ])[0]  # fmt: skip
    scored = across(data)
    assert np.median(np.abs(scored.predicted_s / scored.data.time_s - 1)) < 0.02


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_cover_four_fifths_of_rows_not_used():
    noise = 0.1
    data = data_of("rowwise", 5000, noise=noise)
    (group,) = groups(data.x, data.s)
    own, scored = fit_own(data, group, date="d")
    inside = (scored.low_s <= scored.data.time_s) & (scored.data.time_s <= scored.high_s)
    assert 0.75 < inside.mean() < 0.85
    # and the interval that is kept, on rows that nothing has seen
    new = data_of("rowwise", 3000, noise=noise, seed=9)
    said = fitting.predicted(new, own, None)
    low, high = fitting.bounds(new, own.spread, said)
    assert 0.75 < ((low <= new.time_s) & (new.time_s <= high)).mean() < 0.85


def test_more_noise_is_a_wider_interval_and_a_larger_error():
    found = []
    for noise in (0.02, 0.2):
        data = data_of("rowwise", 1500, noise=noise)
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
        few, new = (
            data_of("gemm", n, noise=0.1, seed=s) for n, s in ((12, seed), (200, 50 + seed))
        )
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
    data = data_of("rowwise", 20, noise=0.05)
    (group,) = groups(data.x, data.s)
    _, before = fit_own(data, group, date="d")
    for i in range(0, 20, 5):
        _, after = fit_own(poisoned(data, np.arange(20) == i), group, date="d")
        assert after.predicted_s[i] == before.predicted_s[i]
        assert (after.predicted_s != before.predicted_s).sum() > 5


def test_one_shape_alone_judges_itself_and_says_so():
    one = data_of("rowwise", 40)
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
