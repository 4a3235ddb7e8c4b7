"""Data sheets of many rows: each device is told once, and every row has its own."""

import pickle

import numpy as np
import pytest

from forerun.cost.rows import rows
from forerun.cost.sheet import Sheet, sheet

DEVICES = ("h100-sxm", "arc-pro-b60", "h100-sxm", "nothing-such", "a100_sxm", "h100-sxm")
DTYPES = ("bf16", "bf16", "fp8", "bf16", "fp16", "bf16")
RUNTIMES = ("vllm 0.24.0", "vllm 0.20", "trtllm-1.3", "vllm", "torch", "vllm 0.24.0")
WORDS = ("topology", "architecture", "device", "engine")
NUMBERS = [name for name in Sheet.__annotations__ if name not in WORDS]


@pytest.fixture
def found():
    return sheet(rows(6, device=list(DEVICES), dtype=list(DTYPES), runtime=list(RUNTIMES)))


def same(a, b):
    for name in NUMBERS:
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name
    for name in WORDS:
        assert getattr(a, name).tolist() == getattr(b, name).tolist()


def test_a_row_among_others_has_the_sheet_it_has_alone(found):
    assert found.engine.tolist() == ["vllm", "vllm", "trtllm", "vllm", "torch", "vllm"]
    for i in range(6):
        alone = sheet(rows(1, device=DEVICES[i], dtype=DTYPES[i], runtime=RUNTIMES[i]))
        same(found.take(np.array([i])), alone)
        assert found.problems.get(i) == alone.problems.get(0)
        assert found.notes.get(i) == alone.notes.get(0)
    assert list(found.problems) == [3]
    assert list(found.notes) == [4]


@pytest.mark.parametrize(
    "which", [np.array([4, 0, 0]), np.array([1, 0, 1, 0, 1, 0], bool), slice(1, 4)]
)
def test_what_is_taken_are_the_rows_of_each_column(found, which):
    part = found.take(which)
    for name in (*NUMBERS, *WORDS):
        here, there = getattr(part, name), getattr(found, name)[which]
        assert np.array_equal(here, there, equal_nan=name in NUMBERS), name
    assert part.by("vllm").tolist() == (found.engine == "vllm")[which].tolist()
    assert part.on("hopper", "xe2").tolist() == (
        np.isin(found.architecture.astype(str), ["hopper", "xe2"])[which].tolist()
    )
    assert (part.problems, part.notes) == ({}, {})


def test_another_peak_is_of_those_rows_and_goes_along(found):
    peak = np.arange(6.0)
    other = found.at_peak(peak)
    assert other.flop_per_s.tolist() == other.wide_flop_per_s.tolist() == peak.tolist()
    assert other.hbm_bytes_per_s is not None
    assert other.take(np.array([5, 2])).flop_per_s.tolist() == [5, 2]
    assert other.at_peak(peak + 1).flop_per_s.tolist() == (peak + 1).tolist()
    assert found.flop_per_s[0] > 1e14  # as it was
    assert np.array_equal(other.fp8_flop_per_s, found.fp8_flop_per_s, equal_nan=True)


def test_a_sheet_travels_and_has_no_other_columns(found):
    same(pickle.loads(pickle.dumps(found)), found)
    with pytest.raises(AttributeError, match="flops"):
        _ = found.flops
