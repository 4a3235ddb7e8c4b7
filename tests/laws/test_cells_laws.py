"""Laws of a fleet in cells: nothing is lost, and workers do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from serving import served, table

from forerun.errors import SpecError
from forerun.metrics.sketch import SketchLog
from forerun.sim.cells import run_cell, run_cells, split
from forerun.spec.workload import Lengths, Traffic


def traffic(n=3000, **more):
    lengths = {k: Lengths(kind="uniform", mean=10, low=1, high=19) for k in ("isl", "osl")}
    settings = {"arrivals": "poisson", "rate_per_s": 60.0, "n_requests": n, **lengths, **more}
    return Traffic(**settings)


def answer(log):
    return dict(log.counters), log.ttft_s.quantiles(), log.e2el_s.quantiles()


def test_all_requests_are_served_in_some_cell():
    log = run_cells(traffic(), [served(table())], n_cells=4, collect=SketchLog, workers=1)
    assert log.counters["finished"] == 3000
    assert log.ttft_s.n == 3000


def test_the_answer_does_not_depend_on_the_number_of_workers():
    settings = {"n_cells": 3, "collect": SketchLog, "seed": 5}
    one = run_cells(traffic(), [served(table())], workers=1, **settings)
    two = run_cells(traffic(), [served(table())], workers=2, **settings)
    assert answer(one) == answer(two)


def test_cells_take_even_shares_of_requests_and_rate():
    cells = list(split(traffic(40_000), [served(table())], n_cells=8, collect=SketchLog))
    shares = np.array([cell.traffic.n_requests for cell in cells])
    assert shares.sum() == 40_000
    # binomial with mean 5000: within five standard deviations (66) of it
    assert (abs(shares - 5000) < 330).all()
    assert {cell.traffic.rate_per_s for cell in cells} == {60.0 / 8}
    assert len({cell.seed for cell in cells}) == 8


def test_one_cell_alone_is_its_part_of_the_whole():
    cells = list(split(traffic(), [served(table())], n_cells=2, collect=SketchLog, seed=9))
    parts = [run_cell(cell) for cell in cells]
    whole = run_cells(traffic(), [served(table())], n_cells=2, collect=SketchLog, seed=9, workers=1)
    assert answer(parts[0].merge(parts[1])) == answer(whole)


def test_traffic_that_would_have_to_be_made_whole_is_refused():
    with pytest.raises(SpecError, match="only drawn Poisson arrivals"):
        run_cells(traffic(arrivals="uniform"), [], n_cells=2, collect=SketchLog)
    with pytest.raises(SpecError, match="n_cells"):
        run_cells(traffic(), [], n_cells=0, collect=SketchLog)
