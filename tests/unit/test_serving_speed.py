"""What a row of serving shares with others of its layout is worked out once, and is the same."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun import catalog
from forerun.api._serving import predict_serving
from forerun.cost.engine_profile import profile
from forerun.cost.step import decode_times, step_time
from forerun.serving.answer import PERCENTILES, percentiles
from forerun.serving.question import question
from forerun.serving.station import ready
from forerun.spec.columns import Columns
from forerun.spec.deployment import Pool

ROW = {"model": "llama-3.1-8b", "device": "h100-sxm", "runtime": "vllm", "isl": "512", "osl": "64"}
TIMES = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=60)


@given(TIMES)
def test_percentiles_are_those_of_numpy_to_the_last_bit(values: list[float]) -> None:
    found = percentiles(np.array(values))
    assert found == np.percentile(values, list(PERCENTILES.values())).tolist()


def table(max_batch: int = 64):
    q = question({**ROW, "max_batch": str(max_batch)})
    return ready(q.model, q.pools[0], q.profile, 4096).served.table


@given(n=st.integers(1, 100), ctx=st.lists(st.floats(0, 60_000), min_size=1, max_size=8))
def test_steps_at_several_contexts_are_those_one_by_one(n: int, ctx: list[float]) -> None:
    priced = table()
    found = decode_times(priced, n, np.array(ctx)).tolist()
    one = [step_time(priced, n_tokens=n, n_seqs=n, n_decode=n, decode_ctx=c).value for c in ctx]
    assert found == one


def test_a_step_between_points_of_the_grid_lies_between_those_at_them() -> None:
    priced = table()
    low, middle, high = (
        step_time(priced, n_tokens=n, n_seqs=1, chunks=[(n, 0.0)]).value
        for n in (2047, 2047.5, 2048)
    )
    assert low <= middle <= high


def test_a_changed_copy_has_a_hash_of_its_own() -> None:
    pool = Pool(device="h100-sxm", tp=2)
    known = pool.content_hash()
    other = pool.model_copy(update={"tp": 4})
    assert other.content_hash() == Pool(device="h100-sxm", tp=4).content_hash() != known
    assert pickle.loads(pickle.dumps(pool)).content_hash() == known


def test_rows_of_one_layout_are_told_the_same_each_time() -> None:
    """Notes on a layout are kept with it; a row must not add to another's."""
    model = catalog.model("llama-3.1-8b")
    row = {**ROW, "moe_tp": "2", "tp": "4", "dp_attention": "2"}
    first, again = question(row), question(row)
    assert first == again
    assert first.model == model
    assert sum("groups of attention" in note for note in again.assumed) == 1


@pytest.mark.parametrize("load", ["max_batch", "concurrency", "rate_per_s"])
def test_a_row_does_not_depend_on_the_rows_before_it(load: str) -> None:
    names = (*ROW, load)
    rows = [{**ROW, "isl": isl, load: "4"} for isl in ("256", "512", "1024")]

    def answers(asked: list[dict[str, str]]) -> list[float]:
        cells = {n: np.array([row[n] for row in asked], dtype=object) for n in names}
        return predict_serving(Columns(names, cells, len(asked)))["e2el_s"].tolist()

    assert answers(rows) == [answers([row])[0] for row in rows] == answers(rows[::-1])[::-1]


def test_profiles_that_differ_give_answers_that_differ() -> None:
    slow = profile("vllm").model_copy(update={"host_step_s": 5e-3})
    pools = [question({**ROW, "max_batch": "4"}, known).pools[0] for known in (None, slow)]
    assert pools[0].engine.host_step_s != pools[1].engine.host_step_s == 5e-3
