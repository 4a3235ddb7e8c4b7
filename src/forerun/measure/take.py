"""Measure: passes over the points that tell most, until all are sure or the time is over.

Every point gets a pass before any gets a second one, so that passes of one point lie apart.  After
ROUNDS of them, points whose passes disagree get more, the noisiest first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun import catalog
from forerun.cost.families import family, family_of_op
from forerun.measure import machine
from forerun.measure.backends import Bench
from forerun.measure.pace import Pace, Steady
from forerun.measure.passes import Passes
from forerun.measure.points import Row, as_rows, points
from forerun.measure.timing import PASS_S, one_pass
from forerun.spec.device import Device

ROUNDS = 3  # passes of every point
MOST = 7  # passes of a noisy one
#: a core's products and a processor's memory, about: estimates, only to choose points by
CORE_FLOP_PER_S, BYTES_PER_S = 1e11, 3e10
#: operators below this (some 10 us of a core) take too little time to tell a rate
SURE_FLOP = 1e6
#: products from which a processor's peak is taken first: two that fill it, and one of about a
#: millisecond, which a core that others use too still runs in one go
LARGE: tuple[Row, ...] = (
    {"m": 512, "n": 1024, "k": 1024}, {"m": 768, "n": 768, "k": 1024},
    {"m": 256, "n": 512, "k": 512},
)  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """What a measurement has."""

    table: Path
    device: Device
    runtime: str
    points: int  # with one pass at least
    wanted: int
    noisy: int
    seconds: float
    done: bool  # nothing more to measure
    pace: Pace | Steady


def take(
    bench: Bench, passes: Passes, table: Path, *, threads: int, minutes: float = 5.0,
    share: float = 1.0, rounds: int = ROUNDS, pass_s: float = PASS_S,
    say: Callable[[str], None] = lambda _: None, clock: Callable[[], float] = time.monotonic,
) -> Taken:  # fmt: skip
    """Measures until all points are sure or the minutes are over; writes the table in any case.

    share : of the usual number of points; rounds : passes of every point; pass_s : of each at
    least.
    """
    here = machine.describe()
    device = device_of(bench, here, threads)
    begin = clock()
    end = begin + 60 * minutes
    pace = Steady() if bench.device else Pace(passes.probes.get(device.name, ()))
    wanted = [
        {**row, "device": device.name, "runtime": bench.runtime}
        for row in points(bench.kinds, nominal(device), dtype=bench.dtype, share=share)
    ]
    about = {"threads": threads, "machine": here.words, "versions": bench.versions}
    say(f"{len(wanted)} points on {device.name} with {bench.runtime}")
    stopped = False
    try:
        for n, row in enumerate(work(wanted, passes, rounds=rounds)):
            if n and clock() >= end:  # one at least, however short the time
                stopped = True
                break
            passes.add(row, one_pass(bench.prepare(row), pass_s=pass_s, pace=pace), about)
    finally:
        if passes.found:
            device = raised(device, passes)
            passes.write(table)
    mine = [passes.quietest(row) for row in wanted if passes.of_row(row)]
    noisy = sum(t.is_noisy for t in mine)
    return Taken(
        table, device, bench.runtime, len(mine), len(wanted), noisy, clock() - begin, not stopped,
        pace,
    )  # fmt: skip


def work(wanted: Sequence[Row], passes: Passes, *, rounds: int) -> Iterator[Row]:
    """Which point is next, until nothing is left to do; decided anew after each pass.

    Passes below full pace are taken again before others get one more.
    """
    for n in range(1, rounds + 1):
        for row in sorted(wanted, key=passes.at_full_pace):
            if passes.at_full_pace(row) < n and len(passes.of_row(row)) < MOST:
                yield row
    for n in range(rounds + 1, MOST + 1):
        unsure = [(got.spread, i) for i, row in enumerate(wanted)
                  if (got := passes.quietest(row)).is_noisy]  # fmt: skip
        for _, i in sorted(unsure, reverse=True):
            if len(passes.of_row(wanted[i])) < n:
                yield wanted[i]


def device_of(bench: Bench, here: machine.Machine, threads: int) -> Device:
    """The device of a bench: of the catalog, or this processor's sheet, measured where it is not
    known yet."""
    if bench.device:
        return catalog.device(bench.device)
    known = machine.known_sheet(machine.device_name(here, threads))
    if known is not None:
        return known
    rows: list[Row] = [{"op": "gemm", "dtype": bench.dtype, **sizes} for sizes in LARGE]
    best = max(
        2.0 * row["m"] * row["n"] * row["k"] / one_pass(bench.prepare(row), pass_s=0.2).time_s
        for row in rows
    )
    rate = machine.copy_bytes_per_s(threads)
    made = machine.sheet_of(here, threads, best, rate, by=f"products by {bench.runtime}")
    machine.keep(made)
    return made


def nominal(device: Device) -> Device:
    """The device by whose sheet points are chosen: of a measured sheet, with round rates.

    A sheet that is raised while it is measured, or measured anew, must not change what is asked.
    """
    if device.name in catalog.devices():
        return device
    cores = device.n_sm or 1
    rates = {"peak_flop_per_s": {"fp32": CORE_FLOP_PER_S * cores}, "hbm_bytes_per_s": BYTES_PER_S}
    return device.model_copy(update=rates)


def raised(device: Device, passes: Passes) -> Device:
    """The sheet of this processor raised to the best rate that a point showed, and kept.

    A sheet taken while others used the machine may be too low, and then its own rows would be
    refused as faster than it; one of the catalog stays.
    """
    if device.name in catalog.devices():
        return device
    best = max(_rates(device, passes), default=0.0)
    if best <= device.peak_flop_per_s["fp32"]:
        return device
    better = replace_peak(device, best)
    machine.keep(better)
    return better


def _rates(device: Device, passes: Passes) -> Iterator[float]:
    """Flop a second of each point of this device that is large enough to tell."""
    mine: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for row, timed, _ in passes.timed():
        if row["device"] == device.name:
            mine.setdefault(str(family_of_op(row["op"])), []).append((row, timed.time_s))
    for name, points_of in mine.items():
        module = family(name)
        flop = module.counts(as_rows([row for row, _ in points_of]).filled(module.DEFAULTS)).flop
        for n, (_, time_s) in zip(flop, points_of, strict=True):
            if n >= SURE_FLOP:
                yield float(n) / time_s


def replace_peak(device: Device, flop_per_s: float) -> Device:
    """The same device with another fp32 peak."""
    return device.model_copy(
        update={"peak_flop_per_s": {**device.peak_flop_per_s, "fp32": flop_per_s}}
    )
