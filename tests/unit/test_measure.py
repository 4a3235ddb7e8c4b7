"""Measuring: which shapes, how times are taken, stopping and going on, what is fitted from them.

Benches here are functions with known times.
"""

import csv
import itertools
import json

import numpy as np
import pytest

from forerun import catalog
from forerun.calibrate.data import gathered
from forerun.calibrate.operators import fit_own
from forerun.calibrate.solve import predicted
from forerun.cost import operators
from forerun.cost.chosen import starting
from forerun.cost.families import family, family_of_op, gemm
from forerun.cost.sheet import sheet
from forerun.errors import SpecError
from forerun.measure.pace import LONGEST_S, SHARE, Pace, full, pace_of
from forerun.measure.passes import Passes, passes_path
from forerun.measure.points import (
    KINDS,
    Kind,
    as_rows,
    candidates,
    gradients,
    points,
    representatives,
    telling,
)
from forerun.measure.tables import read_tables
from forerun.measure.take import take, work
from forerun.measure.timing import (
    NOISY,
    Pass,
    of_repeats,
    one_pass,
    quietest,
    repeats,
    undisturbed,
)

CPU = "xeon-8480plus"


class FakeBench:
    """Times by the physics of families with coefficients that are known; no clock is asked."""

    device, runtime, dtype, versions = CPU, "onnxruntime 9.9.9", "fp32", "made up"
    kinds = (Kind("gemm", 90), Kind("norm", 20))

    def __init__(self, stop_after=None, noise=None, **coefs):
        self.coefs, self.stop_after, self.noise = coefs, stop_after, noise
        self.asked = []

    def prepare(self, row):
        self.asked.append(row)
        if self.stop_after is not None and len(self.asked) > self.stop_after:
            raise KeyboardInterrupt
        time_s = float(seconds([row], **self.coefs)[0])
        factor = next(self.noise) if self.noise else 1.0
        return lambda: time_s * factor


def seconds(rows, **coefs):
    """What the physics says of rows of one family, with some coefficients given."""
    x = as_rows([{**row, "device": CPU, "runtime": FakeBench.runtime} for row in rows])
    module = family(str(family_of_op(rows[0]["op"])))
    x = x.filled(module.DEFAULTS)
    s = sheet(x)
    c = starting(x, s, module)
    known = {name: value for name, value in coefs.items() if name in c}
    return module.physics(x, s, {**c, **known})


# ------------------------------------------------------------------------------ which shapes


def test_any_beginning_of_the_points_is_the_choice_of_so_many():
    device = catalog.device(CPU)
    for kind in KINDS:
        many = representatives(kind, device, "fp32", 40)
        assert representatives(kind, device, "fp32", 12) == many[:12]
        assert len({json.dumps(row, sort_keys=True) for row in many}) == len(many)


def test_points_span_launches_memory_cache_and_arithmetic():
    device = catalog.device(CPU)
    rows = representatives(Kind("gemm", 96), device, "fp32", 96)
    x = as_rows([{**row, "device": CPU} for row in rows]).filled(gemm.DEFAULTS)
    s = sheet(x)
    counts = gemm.counts(x)
    compute, memory = counts.flop / s.flop_per_s, counts.hbm_bytes / s.hbm_bytes_per_s
    work = np.maximum(compute, memory)
    bound = {
        "launch": work < s.launch_s / 4,
        "memory": (memory > 2 * compute) & (memory > s.launch_s),
        "compute": (compute > 2 * memory) & (compute > 10 * s.launch_s),
        "cached": counts.hbm_bytes < s.l2_bytes / 10,
    }
    assert all(np.count_nonzero(mine) >= 5 for mine in bound.values()), bound


def test_chosen_points_tell_coefficients_more_than_points_at_random():
    device = catalog.device(CPU)
    drawn = list(candidates(Kind("gemm", 1), "fp32"))

    def told(rows):
        x = as_rows([{**row, "device": CPU} for row in rows]).filled(gemm.DEFAULTS)
        s = sheet(x)
        g = gradients(lambda c: gemm.physics(x, s, c), starting(x, s, gemm))
        return np.linalg.slogdet(0.1 * np.eye(g.shape[1]) + g.T @ g)[1]

    chosen = told(representatives(Kind("gemm", 1), device, "fp32", 20))
    rng = np.random.default_rng(0)
    at_random = [told([drawn[i] for i in rng.choice(len(drawn), 20)]) for _ in range(20)]
    assert chosen > max(at_random)


def test_kinds_take_turns_so_that_a_stop_leaves_some_of_each():
    rows = points(KINDS, catalog.device(CPU), dtype="fp32")
    assert {(row["op"], row.get("impl", "")) for row in rows[:30]} == {
        (kind.op, kind.impl) for kind in KINDS
    }
    share = points(KINDS, catalog.device(CPU), dtype="fp32", share=0.25)
    assert 0.2 < len(share) / len(rows) < 0.3


def test_telling_takes_no_point_twice_and_stops_when_there_are_no_more():
    slopes = np.array([[1.0], [0.5], [0.1]])
    assert sorted(telling(slopes, {"a": np.arange(3.0)}, 10)) == [0, 1, 2]


# ------------------------------------------------------------------------------ times


def test_a_time_is_the_median_of_the_quietest_pass():
    timed = quietest([of_repeats([3.0, 4.0, 5.0]), of_repeats([2.0, 2.0, 2.5])])
    assert timed.time_s == 2.0
    assert timed.repeats == 6
    assert timed.spread == 1.0  # the passes are a factor 2 apart
    assert timed.is_noisy


def test_passes_that_agree_are_not_noisy():
    assert not quietest([Pass(1.0, 0.02, 9), Pass(1.05, 0.3, 9)]).is_noisy
    assert quietest([Pass(1.0, NOISY + 0.01, 9)]).is_noisy


def test_repeats_without_their_processor_time_are_left_out():
    # wall time of each repeat, and the processor time it got: two were kept waiting
    wall = iter([1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 1.0])
    given = {1.0: 1.0, 9.0: 1.0}
    now = {"wall": 0.0, "used": 0.0}

    def repeat():
        took = next(wall)
        now["wall"] += took
        now["used"] += given[took]
        return took

    found = one_pass(
        repeat, pass_s=10.0, least=5, clock=lambda: now["wall"], used=lambda: now["used"]
    )
    assert (found.time_s, found.repeats, found.disturbed) == (1.0, 3, 2)


def test_disturbed_is_judged_beside_the_best_so_that_waiting_threads_are_fine():
    assert undisturbed([1.9, 1.95, 0.9]) == [True, True, False]
    assert undisturbed([0.4, 0.4]) == [True, True]


def test_a_few_outliers_of_the_two_clocks_disturb_nobody():
    assert sum(undisturbed([1.0] * 95 + [1.3] * 5)) == 100


def test_one_long_repeat_warms_up_and_three_are_a_pass():
    now = [0.0]

    def repeat():
        now[0] += 1.0
        return 1.0

    found = repeats(repeat, pass_s=0.1, clock=lambda: now[0], used=lambda: now[0])
    assert (found.warm_up, len(found.took)) == (1, 3)


# ------------------------------------------------------------------------------ the machine's pace


class Machine:
    """A machine that is slow between the given seconds; probes and naps let time pass."""

    def __init__(self, *slow, factor=1.5):
        self.now, self.slow, self.factor = 0.0, slow, factor

    def factor_now(self):
        return self.factor if any(a <= self.now < b for a, b in self.slow) else 1.0

    def run(self, seconds):
        took = seconds * self.factor_now()
        self.now += took
        return took

    def sleep(self, seconds):
        self.now += seconds

    def clock(self):
        return self.now

    def pace(self, known=()):
        return Pace(known, work=lambda: self.run(0.001), clock=self.clock, sleep=self.sleep)

    def time(self, seconds, pace, **settings):
        clocks = {"clock": self.clock, "used": self.clock}
        return one_pass(lambda: self.run(seconds), pace=pace, **clocks, **settings)


def test_full_pace_is_one_that_lasts():
    assert full([]) == 0.0
    assert full(sorted([1.0] + [2.0] * 20 + [3.0] * 30)) == 2.0  # one lucky probe is no pace
    assert pace_of(3.0, 2.0) == 1.5
    assert pace_of(1.0, 2.0) == pace_of(3.0, 0.0) == pace_of(0.0, 2.0) == 1.0


def test_a_pass_waits_for_full_pace_and_no_longer():
    here = Machine((10.0, 14.0), factor=1.5)
    here.now = 8.0
    pace = here.pace(known=[0.001] * 9)
    assert here.time(0.02, pace).time_s == pytest.approx(0.02)
    here.now = 13.0
    assert here.time(0.02, pace).time_s == pytest.approx(0.02)
    assert 14.0 <= here.now < 14.5
    assert 0.9 < pace.waited_s < 1.2


def test_waiting_ends_after_its_share_of_all_time():
    here = Machine((5.0, 1e9), factor=1.5)
    pace = here.pace(known=[0.001] * 99)
    here.now = 5.0
    waits = []
    for _ in range(9):
        start = here.now
        pace.wait()
        waits.append(here.now - start)
        here.now += 1.0
    assert max(waits) <= LONGEST_S + 0.1
    assert pace.waited_s <= SHARE * here.now + 0.1
    slow = here.time(0.02, pace)
    assert slow.time_s == pytest.approx(0.03)
    assert pace_of(slow.probe_s, 0.001) == pytest.approx(1.5)


def test_repeats_below_full_pace_are_left_out():
    here = Machine((10.05, 10.2), factor=1.5)
    here.now = 9.95
    found = here.time(0.02, here.pace(known=[0.001] * 9), pass_s=0.3)
    assert found.time_s == pytest.approx(0.02)
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert found.disturbed >= 1
    assert pace_of(found.probe_s, 0.001) == 1.0


def test_a_pass_below_full_pace_counts_where_there_is_no_other():
    full_pace, slow, slower = (Pass(t, 0.01, 5, probe_s=p)
                               for t, p in ((1.1, 1.0), (1.3, 1.4), (1.2, 2.0)))  # fmt: skip
    told = quietest([slow, full_pace, slower], 1.0)
    assert (told.time_s, told.is_noisy) == (1.1, False)  # not that of 2.0, which says 0.6
    alone = quietest([slow, slower], 1.0)
    assert alone.time_s == pytest.approx(1.3 / 1.4)
    assert alone.is_noisy
    assert alone.spread == pytest.approx(0.4)
    assert quietest([slow, slower]).time_s == 1.2  # nothing is known of the pace


def test_slow_passes_are_taken_again_before_others_get_one_more(tmp_path):
    rows = [{"op": "add", "device": CPU, "n_tokens": n, "width": 8} for n in range(20)]
    passes = Passes.of(tmp_path / "m.csv")
    for i, row in enumerate(rows):
        passes.add(row, Pass(1.0, 0.0, 5, probe_s=1.4 if i == 7 else 1.0), {})
    again = Passes.of(tmp_path / "m.csv")
    assert [again.at_full_pace(row) for row in rows] == [int(i != 7) for i in range(20)]
    assert next(work(rows, again, rounds=2)) is rows[7]


# ------------------------------------------------------------------------------ stop and go on


def measure(bench, table, *, share=0.2, **settings):
    # a bench that is made up needs no time: one repeat's worth
    settings = {"rounds": 2, "pass_s": 0.0, **settings}
    return take(bench, Passes.of(table), table, threads=1, share=share, **settings)


def test_what_is_measured_is_read_as_a_table_of_ones_own(tmp_path):
    table = tmp_path / "deep" / "m.csv"
    taken = measure(FakeBench(), table)
    assert taken.done
    assert taken.points == taken.wanted == 22
    (found,) = read_tables(table)
    assert found.rows.n == taken.points
    first = Passes.of(table).timed()[0]
    assert set(found.rows.words("runtime")) == {FakeBench.runtime}
    np.testing.assert_allclose(found.time_s[0], first[1].time_s, rtol=1e-8)
    header = table.read_text().partition("\n")[0].split(",")
    said = {"time_s", "repeats", "spread", "noisy", "date", "machine", "versions", "threads"}
    assert said <= set(header)


def told(table):
    """A table without what depends on the clock of the test."""
    with table.open() as file:
        return [{k: v for k, v in row.items() if k not in ("repeats", "disturbed")}
                for row in csv.DictReader(file)]  # fmt: skip


@pytest.mark.parametrize("stop_after", [0, 1, 7, 23, 40])
def test_an_interrupt_loses_nothing_and_the_same_command_goes_on(tmp_path, stop_after):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    measure(FakeBench(), whole)
    first = FakeBench(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        measure(first, stopped)
    kept = passes_path(stopped).read_text().splitlines() if stop_after else []
    assert len(kept) == stop_after
    if stop_after:
        (table,) = read_tables(stopped)
        assert table.rows.n == min(stop_after, 22)
    second = FakeBench()
    taken = measure(second, stopped)
    assert taken.done
    assert len(second.asked) == 44 - stop_after  # nothing was measured twice
    assert told(stopped) == told(whole)


def test_a_pass_that_was_cut_off_is_taken_anew(tmp_path):
    table = tmp_path / "m.csv"
    measure(FakeBench(), table)
    path = passes_path(table)
    path.write_text(path.read_text()[:-25])
    found = Passes.of(table)
    assert found.cut == 1
    assert sum(len(v) for v in found.found.values()) == 43
    again = FakeBench()
    measure(again, table)
    assert len(again.asked) == 1
    assert len(path.read_text().splitlines()) == 44


def test_a_file_cut_between_a_line_and_its_end_is_not_glued_to_the_next(tmp_path):
    table = tmp_path / "m.csv"
    measure(FakeBench(), table, rounds=1)
    path = passes_path(table)
    path.write_text(path.read_text()[:-1])
    measure(FakeBench(), table, rounds=2)
    assert Passes.of(table).cut == 0
    assert len(path.read_text().splitlines()) == 44


def test_a_file_of_something_else_is_refused_with_its_lines(tmp_path):
    table = tmp_path / "m.csv"
    passes_path(table).write_text('{"row": 1}\nnot JSON\n{"row": {}}\n')
    with pytest.raises(SpecError, match="is not a pass") as caught:
        Passes.of(table)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("name", "value"), [
    ("time_s", "fast"), ("time_s", -1.0), ("time_s", float("nan")), ("time_s", float("inf")),
    ("repeats", None), ("row", 7), ("row", {"op": "gemm"}), ("about", 7),
])  # fmt: skip
def test_a_pass_that_no_clock_gave_is_refused_with_its_line(tmp_path, name, value):
    table = tmp_path / "m.csv"
    passes = Passes.of(table)
    passes.add({"op": "add", "device": CPU, "n_tokens": 1, "width": 8}, Pass(1e-6, 0.0, 5), {})
    line = json.loads(passes_path(table).read_text())
    (line if name in line else line["pass"])[name] = value
    with passes_path(table).open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(SpecError, match="is not a pass that was measured") as caught:
        Passes.of(table)
    assert caught.value.problems[0].where == f"{passes_path(table)}:2"


def test_when_the_time_is_over_the_most_telling_points_are_there(tmp_path):
    ticks = itertools.count()
    table = tmp_path / "m.csv"
    taken = measure(FakeBench(), table, minutes=10 / 60, clock=lambda: float(next(ticks)))
    assert not taken.done
    assert 0 < taken.points < taken.wanted
    wanted = points(FakeBench.kinds, catalog.device(CPU), dtype="fp32", share=0.2)
    kept = [row for row, _, _ in Passes.of(table).timed()]
    for row, expected in zip(kept, wanted[: taken.points], strict=True):
        assert {k: row[k] for k in expected} == expected


def test_points_whose_passes_disagree_get_more_passes(tmp_path):
    rows = [{"op": "add", "device": CPU, "n_tokens": n, "width": 8} for n in (1, 2)]
    passes = Passes(tmp_path / "p.jsonl")
    for row, times in zip(rows, ((1.0, 1.0), (1.0, 2.0)), strict=True):
        for t in times:
            passes.add(row, Pass(t, 0.0, 5), {})
    following = work(rows, passes, rounds=2)
    assert next(following) is rows[1]
    passes.add(rows[1], Pass(1.01, 0.0, 5), {})
    assert list(following) == []  # now two of its passes agree


# ------------------------------------------------------------------------------ what it is worth


def test_a_fit_of_known_times_gives_them_back_at_other_shapes(tmp_path):
    table = tmp_path / "m.csv"
    known = {"compute": 0.6, "stream": 0.5, "launch_s": 3e-6, "cached": 3.0}
    bench = FakeBench(**known)
    measure(bench, table, rounds=1, share=0.6)  # 54 products: no trees, coefficients alone
    data = next(d for d in gathered(read_tables(table)) if d.name == "gemm")
    (group,) = operators.groups(data.x, data.s)
    own, _ = fit_own(data, group, date="2026-11-21")
    asked = list(candidates(Kind("gemm", 1), "fp32"))[300:400]
    true = seconds(asked, **known)
    x = as_rows([{**row, "device": CPU, "runtime": bench.runtime} for row in asked])
    x = x.filled(gemm.DEFAULTS)
    rest = type(data)("gemm", x, sheet(x), true, np.zeros(x.n, int), data.tables)
    ape = np.abs(predicted(rest, own, None) / true - 1)
    assert np.median(ape) < 0.02
    assert np.quantile(ape, 0.9) < 0.08
    assert dict(zip(own.names, own.coefs[0], strict=True))["compute"] == pytest.approx(0.6, rel=0.1)
