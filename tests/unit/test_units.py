"""The closed unit table against pint, whole; parsing and showing are inverses."""

import math

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun import units
from forerun.errors import SpecError

#: what pint calls the unit that carries the dimension, and names it does not know
_BASE = {
    "time": "second", "bytes": "byte", "bytes_per_s": "byte/second", "power": "watt",
    "energy": "joule", "frequency": "hertz",
}  # fmt: skip
_COUNTED = {  # pint has neither flop, dollars nor carbon: the name is defined as a bare count
    "flop": "flop", "flop_per_s": "flop/second", "usd": "USD", "usd_per_hour": "USD/hour",
    "carbon": "gCO2e", "carbon_per_kwh": "gCO2e/kWh", "rate": "1/second",
}  # fmt: skip
_EVERY = [(d, unit) for d, table in units.UNITS.items() for unit in table]


@pytest.fixture(scope="module")
def registry():
    registry = pint.UnitRegistry()
    registry.define("flop = [work]")
    registry.define("op = flop")
    registry.define("USD = [money]")
    registry.define("gCO2e = [carbon]")
    registry.define("kgCO2e = 1000 gCO2e")
    registry.define("tCO2e = 1000000 gCO2e")
    return registry


def _for_pint(unit: str) -> str:
    """Our spelling in pint's grammar: bits are not bels, B is a byte, a bare rate has a 1."""
    name, slash, per = unit.partition("/")
    if name == "d":
        name = "day"
    if name.endswith("b") and per:
        name = name[:-1] + "bit"
    name = {"$": "USD", "req": "1", "": "1"}.get(name, name)
    return name + slash + {"h": "hour", "min": "minute", "s": "second"}.get(per, per)


def test_the_table_has_every_dimension_under_one_of_the_two_oracles():
    assert set(units.UNITS) == set(_BASE) | set(_COUNTED)


@pytest.mark.parametrize(("dimension", "unit"), _EVERY, ids=[f"{d}-{u}" for d, u in _EVERY])
def test_every_unit_is_worth_what_pint_says(registry, dimension, unit):
    base = (_BASE | _COUNTED)[dimension]
    expected = registry.parse_expression("1 " + _for_pint(unit).replace("1/", "/ ")).to(base)
    assert units.UNITS[dimension][unit] == pytest.approx(expected.magnitude, rel=1e-12)


@pytest.mark.parametrize(("dimension", "unit"), _EVERY, ids=[f"{d}-{u}" for d, u in _EVERY])
@pytest.mark.parametrize("gap", ["", " ", "   "])
def test_every_unit_is_read_with_or_without_a_space(dimension, unit, gap):
    assert units.parse(f"2.5{gap}{unit}", dimension) == 2.5 * units.UNITS[dimension][unit]


@pytest.mark.parametrize("dimension", units.UNITS)
@given(x=st.floats(1e-9, 1e15))
def test_what_is_shown_reads_back_within_its_digits(dimension, x):
    text = units.show(x, dimension, digits=6).replace(",", "")
    assert units.parse(text, dimension) == pytest.approx(x, rel=1e-5)


@pytest.mark.parametrize("dimension", units.UNITS)
def test_every_example_is_a_quantity_of_its_dimension(dimension):
    assert units.parse(units.example(dimension), dimension) > 0


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (0.0425, "time", "42.5 ms"),
        (0.9999, "time", "1 s"),
        (3.35e12, "bytes_per_s", "3.35 TB/s"),
        (16.1e9, "bytes", "16.1 GB"),
        (0, "time", "0 s"),
        (0, "power", "0 W"),
        (math.nan, "time", "unknown"),
        (math.inf, "time", "inf d"),
        (-0.25, "time", "-250 ms"),
        (12345.0, "usd", "12,345 USD"),
    ],
)
def test_a_quantity_is_shown_in_the_largest_unit_that_keeps_it_at_least_one(value, dimension, text):
    assert units.show(value, dimension) == text


@pytest.mark.parametrize(
    ("text", "dimension", "sentence"),
    [
        ("80", "bytes", "'80' has no unit"),
        ("3 GB", "time", "'GB' is not a unit of time"),
        ("fast", "time", "'fast' is not a number with a unit"),
        ("", "time", "'' is not a number with a unit"),
        ("nan s", "time", "'nan s' is not a number with a unit"),
        ("5 gb", "bytes", "'gb' is not a unit of bytes"),
        ("1 GB/s", "bytes", "'GB/s' is not a unit of bytes"),
    ],
)
def test_a_text_that_is_no_quantity_says_why_and_offers_one(text, dimension, sentence):
    with pytest.raises(SpecError) as caught:
        units.parse(text, dimension, where="here")
    problem = caught.value.problems[0]
    assert (problem.where, problem.what) == ("here", sentence)
    assert units.parse(problem.fix, dimension) > 0


def test_zero_and_infinity_need_no_unit():
    assert units.parse("0", "time") == 0
    assert units.parse("inf", "time") == math.inf


@pytest.mark.parametrize(
    ("field", "dimension"),
    [
        ("ttft_s", "time"),
        ("rate_per_s", "rate"),
        ("hbm_bytes_per_s", "bytes_per_s"),
        ("peak_flop_per_s", "flop_per_s"),
        ("price_usd_per_hour", "usd_per_hour"),
        ("usd_per_hour", "usd_per_hour"),
        ("tdp_w", "power"),
        ("max_num_seqs", None),
        ("tp", None),
        ("gco2e_per_kwh", "carbon_per_kwh"),
    ],
)
def test_the_suffix_of_a_name_is_its_dimension(field, dimension):
    assert units.dimension_of(field) == dimension
