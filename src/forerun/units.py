"""Quantities with units at the edges, SI floats inside.

A field's dimension is the suffix of its name (`time_s`, `hbm_bytes`, `link_bytes_per_s`).  Strings
such as "80 GiB" or "3.35 TB/s" exist in files, flags and reports only, and pass through `parse`
and `show`.  GB is 1e9 bytes, GiB is 2**30.  The whole table is checked against pint in the tests.
"""

from __future__ import annotations

import math
import re

from forerun.errors import SpecError

_SI = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_TIME = {
    "ps": 1e-12, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3,
    "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip

_BYTES = {p + "B": f for p, f in (_SI | _BINARY).items()}

#: dimension -> {unit: factor to SI base}
UNITS: dict[str, dict[str, float]] = {
    "time": _TIME,
    "bytes": _BYTES,
    "bytes_per_s": {f"{u}/s": f for u, f in _BYTES.items()}
    | {f"{p}b/s": f / 8 for p, f in _SI.items()}
    | {f"{p}bit/s": f / 8 for p, f in _SI.items()},
    "flop": {p + "flop": f for p, f in _SI.items()},
    "flop_per_s": {p + "flop/s": f for p, f in _SI.items()}
    | {p + "op/s": f for p, f in _SI.items()},
    "power": {"mW": 1e-3, "W": 1.0, "kW": 1e3, "MW": 1e6},
    "energy": {"mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6, "Wh": 3600.0, "kWh": 3.6e6},
    "frequency": {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "usd": {"USD": 1.0, "$": 1.0},
    "usd_per_hour": {"USD/h": 1.0, "$/h": 1.0},
    "carbon": {"gCO2e": 1.0, "kgCO2e": 1e3, "tCO2e": 1e6},
    "carbon_per_kwh": {"gCO2e/kWh": 1.0, "kgCO2e/kWh": 1e3},
    "rate": {"/s": 1.0, "req/s": 1.0, "/min": 1 / 60, "req/min": 1 / 60, "/h": 1 / 3600},
}

#: field-name suffix -> dimension; the longest suffix wins
SUFFIXES: dict[str, str] = {
    "_bytes_per_s": "bytes_per_s",
    "_flop_per_s": "flop_per_s",
    "_usd_per_hour": "usd_per_hour",
    "_gco2e_per_kwh": "carbon_per_kwh",
    "_per_s": "rate",
    "_bytes": "bytes",
    "_flop": "flop",
    "_gco2e": "carbon",
    "_usd": "usd",
    "_hz": "frequency",
    "_s": "time",
    "_w": "power",
    "_j": "energy",
}

_EXAMPLE = {
    "time": "500 ms", "bytes": "80 GiB", "bytes_per_s": "3.35 TB/s", "flop": "1 Tflop",
    "flop_per_s": "989 Tflop/s", "power": "700 W", "energy": "1 kWh", "frequency": "1.98 GHz",
    "usd": "100 USD", "usd_per_hour": "3.5 USD/h", "carbon": "5 kgCO2e",
    "carbon_per_kwh": "400 gCO2e/kWh", "rate": "4 req/s",
}  # fmt: skip

_NUMBER = re.compile(r"\s*([-+]?(?:[\d_]+\.?[\d_]*|\.\d+)(?:[eE][-+]?\d+)?|inf)\s*(.*?)\s*$")


def dimension_of(field: str) -> str | None:
    """The dimension that a field's name declares, or None for a dimensionless one."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if field.endswith(suffix) or field == suffix[1:]:
            return SUFFIXES[suffix]
    return None


def parse(text: str, dimension: str, *, where: str = "value") -> float:
    """The quantity in SI base units.  Raises SpecError if the unit is missing or foreign."""
    match = _NUMBER.match(text)
    units = UNITS[dimension]
    if not match:
        raise SpecError.one(where, f"{text!r} is not a number with a unit", _EXAMPLE[dimension])
    number, unit = match.groups()
    value = float(number.replace("_", ""))
    if unit in units:
        return value * units[unit]
    if not unit:
        if value == 0 or math.isinf(value):
            return value
        raise SpecError.one(where, f"{text!r} has no unit", f"{text.strip()} {_usual(dimension)}")
    raise SpecError.one(
        where, f"{unit!r} is not a unit of {dimension.replace('_', ' ')}", _EXAMPLE[dimension]
    )


def _usual(dimension: str) -> str:
    return _EXAMPLE[dimension].split(" ", 1)[1]


_SHOWN = {
    "time": ["ps", "ns", "us", "ms", "s", "min", "h", "d"],
    "bytes": ["B", "kB", "MB", "GB", "TB", "PB"],
    "bytes_per_s": ["B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"],
    "flop": ["flop", "kflop", "Mflop", "Gflop", "Tflop", "Pflop", "Eflop"],
    "flop_per_s": ["flop/s", "kflop/s", "Mflop/s", "Gflop/s", "Tflop/s", "Pflop/s", "Eflop/s"],
    "power": ["mW", "W", "kW", "MW"],
    "energy": ["mJ", "J", "kJ", "MJ"],
    "frequency": ["Hz", "kHz", "MHz", "GHz"],
    "usd": ["USD"],
    "usd_per_hour": ["USD/h"],
    "carbon": ["gCO2e", "kgCO2e", "tCO2e"],
    "carbon_per_kwh": ["gCO2e/kWh"],
    "rate": ["/s"],
}


def show(value: float, dimension: str, *, digits: int = 3) -> str:
    """The quantity for a human, in the largest unit that keeps it at least 1: "3.35 TB/s"."""
    if value is None or math.isnan(value):
        return "unknown"
    names = _SHOWN[dimension]
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}inf {names[-1]}"
    size = abs(value)
    name = names[0] if size else _usual_zero(dimension)
    for candidate in names:
        # half a digit of slack so that 0.9996 s prints as 1 s, not 1000 ms
        if size >= UNITS[dimension][candidate] * (1 - 0.5 * 10.0**-digits):
            name = candidate
    return f"{_significant(value / UNITS[dimension][name], digits)} {name}"


def _usual_zero(dimension: str) -> str:
    return {"time": "s", "power": "W", "energy": "J"}.get(dimension, _SHOWN[dimension][0])


def _significant(x: float, digits: int) -> str:
    if x == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    text = f"{x:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def example(dimension: str) -> str:
    """A quantity of this dimension as one would write it."""
    return _EXAMPLE[dimension]
