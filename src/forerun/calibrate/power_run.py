"""Metered runs, each beside what the power model says of it: by phase, by batch, by cap.

    python -m forerun.calibrate.power_run FILE [--plot PICTURE.svg]

FILE (CSV, .gz allowed) is told by its columns:

phases    prompt_size, batch_size, token_size, average_power, peak_power, .. (Splitwise): the mean
          while decoding and the highest sample, which the prompt causes, against a step of each
serving   avg_power_watts, avg_batch_size, .. (ML.ENERGY): mean power of a steady batch.  Those of a
          device whose curve was fitted are judged by shares fitted without their model
caps      power_limit, time_per_epoch, average_power, .. (Zeus), named power_<gpu>.csv: time, power
          and energy of an epoch under each cap, from the same job at its highest.  Judged by a
          curve fitted without its network
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forerun import catalog
from forerun.calibrate import energy as fitting
from forerun.calibrate import power_cap as cap_fitting
from forerun.calibrate.pictures import COLOURS, GREY, draw
from forerun.cost.energy import curves, power
from forerun.cost.price import price
from forerun.cost.step import step_work
from forerun.cost.table import CostTable
from forerun.errors import SpecError
from forerun.measure.energy import mlenergy, splitwise, zeus
from forerun.measure.tables._table import frame_of
from forerun.ops.lower import lower
from forerun.spec.deployment import Engine, Pool


@dataclass(frozen=True, eq=False)
class Compared:
    """One quantity, measured and predicted: float64 [N] each, and what each row is of."""

    name: str
    unit: str
    measured: np.ndarray
    predicted: np.ndarray
    group: np.ndarray  # str [N], for the colour of a picture
    x: np.ndarray | None = None  # what it is drawn over, when not measured against predicted
    x_name: str = ""

    @property
    def off(self) -> np.ndarray:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1


# -- the three kinds of files ----------------------------------------------------------------------


def phases(path: Path) -> list[Compared]:
    """Power and time of prompts and of decoding."""
    found = splitwise.read(path)
    n = len(found.model)
    out = {k: np.empty(n) for k in ("prompt_w", "decode_w", "prompt_s", "step_s")}
    tables: dict[tuple[Any, ...], CostTable] = {}
    longest, most = int((found.isl + found.osl).max()), int((found.isl * found.batch).max())
    for i in range(n):
        name, device = str(found.model[i]), catalog.device(str(found.device[i]))
        n_devices, B, isl = int(found.tp[i]), int(found.batch[i]), int(found.isl[i])
        key = (name, device.name, n_devices)
        if key not in tables:
            seats = max(64, int(found.batch.max()))
            pool = Pool(device=device.name, tp=n_devices, engine=Engine(max_num_seqs=seats))
            tables[key] = price(
                lower(catalog.model(name), pool), device, max_tokens=most, max_seqs=seats,
                max_len=longest,
            )  # fmt: skip
        steps = {
            "decode": {"n_tokens": B, "n_seqs": B, "n_decode": B,
                       "decode_ctx": isl + found.osl[i] / 2},
            "prompt": {"n_tokens": B * isl, "n_seqs": B, "chunks": ((isl, 0.0),) * B},
        }  # fmt: skip
        for phase, step in steps.items():
            t = tables[key]
            joule = step_work(t, t.energy_j, **step)
            seconds = step_work(t, t.time_s, **step)
            out[f"{phase}_w"][i] = joule / seconds / n_devices + power(device).idle_w
            out["step_s" if phase == "decode" else "prompt_s"][i] = seconds
    group = np.array([f"{m} tp {t}" for m, t in zip(found.model, found.tp, strict=True)])
    return [
        Compared("power, decoding", "W", found.decode_w, out["decode_w"], group),
        Compared("power, prompt (highest sample)", "W", found.peak_w, out["prompt_w"], group),
        Compared("time of a decode step", "s", found.step_s, out["step_s"], group),
        Compared("time of a prompt", "s", found.prompt_s, out["prompt_s"], group),
    ]


def serving(path: Path) -> list[Compared]:
    """Mean power of a device at a steady batch, and energy of a token of the answers."""
    runs = mlenergy.read(path)
    steps = fitting.steps(runs)
    runs, steps = runs.take(steps.answered), steps.take(steps.answered)
    watts = np.full(runs.n, np.nan)
    for device in sorted(set(runs.device)):
        mine = runs.device == device
        part, s = runs.take(mine), steps.take(mine)
        several = len(set(part.model)) > 1
        if several and any(curve.device == device for curve in curves()):
            watts[mine] = fitting.left_out(part, s)
            continue
        p = power(catalog.device(device))
        bytes_w = p.j_per_byte * p.device.hbm_bytes_per_s
        shares = np.array([p.active_w, bytes_w, p.matrix * p.span_w]) / p.span_w
        watts[mine] = fitting.predicted(part, s, shares, p.limit_w / p.span_w)
    joule = watts * runs.n_devices * runs.step_s / runs.batch
    group = np.array([f"{n} device{'s' if n > 1 else ''}" for n in runs.n_devices])
    hosted = fitting.step_left_out(runs, steps)
    told = np.isfinite(hosted)
    return [
        Compared("power of a device", "W", runs.power_w, watts, group),
        Compared("energy of a token, measured time", "J", runs.energy_j_per_token, joule, group),
        Compared("energy of a token, predicted time", "J", runs.energy_j_per_token,
                 joule * steps.step_s / runs.step_s, group),
        Compared("the same, and the host's by other models", "J", runs.energy_j_per_token[told],
                 (joule * hosted / runs.step_s)[told], group[told]),
    ]  # fmt: skip


def caps(path: Path) -> list[Compared]:
    """Time, power and energy under caps, relative to the same job at its highest cap."""
    runs = zeus.read(path)
    free = cap_fitting.uncapped(runs)
    asked = free != np.arange(runs.n)
    time_s, power_w = np.empty(runs.n), np.empty(runs.n)
    for name in sorted(set(runs.model)):
        mine = runs.model == name
        curve = cap_fitting.solve(runs, ~mine) if not mine.all() else None
        seconds, watts = cap_fitting.predicted(runs, free, curve)
        time_s[mine], power_w[mine] = seconds[mine], watts[mine]
    by_job = (("time", runs.time_s, time_s), ("power", runs.power_w, power_w),
              ("energy", runs.energy_j, time_s * power_w))  # fmt: skip
    return [
        Compared(
            f"{name} of an epoch over that at the highest cap", "", (seen / seen[free])[asked],
            (told / seen[free])[asked], np.asarray(runs.model)[asked], runs.cap_w[asked], "cap, W",
        )
        for name, seen, told in by_job
    ]  # fmt: skip


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Path], list[Compared]]]] = {
    "phases": (("prompt_size", "token_size", "average_power", "peak_power"), phases),
    "serving": (("avg_power_watts", "avg_batch_size"), serving),
    "caps": (("power_limit", "time_per_epoch", "average_power"), caps),
}


def compare(path: str | Path) -> list[Compared]:
    """All quantities of a file.  Raises SpecError where its columns are of no kind."""
    path = Path(path)
    if not path.is_file():
        raise SpecError.one(str(path), "there is no such file", "a CSV of metered runs")
    have = frame_of(path).columns
    for columns, read in KINDS.values():
        if set(columns) <= set(have):
            return read(path)
    wanted = "; or ".join(", ".join(columns) for columns, _ in KINDS.values())
    what = f"has columns {', '.join(have[:8])}, which are of no kind of metered runs"
    raise SpecError.one(str(path), what, f"a file with {wanted}")


# -- what is shown ---------------------------------------------------------------------------------


def report(found: Sequence[Compared]) -> str:
    """Errors of each quantity: rows, median, 90 % below, and the bias."""
    head = f"{'':48}{'rows':>6}{'median error':>14}{'90 % below':>12}{'bias':>8}"
    lines = [head]
    for one in found:
        off = one.off
        size = np.abs(off)
        lines.append(
            f"{one.name:48}{len(off):6,}{100 * np.median(size):12.1f} %"
            f"{100 * np.quantile(size, 0.9):10.1f} %{100 * np.median(off):+7.1f}%"
        )
    if found and found[0].x is not None:
        lines += ["", f"{found[-1].x_name:12}" + "".join(f"{o.name.split()[0]:>26}" for o in found)]
        assert found[0].x is not None
        for x in np.unique(found[0].x):
            seen, told = (
                [float(np.median(getattr(one, name)[one.x == x])) for one in found]
                for name in ("measured", "predicted")
            )
            cells = [f"{a:12.3f} metered{b:6.3f}" for a, b in zip(seen, told, strict=True)]
            lines.append(f"{x:<12.0f}" + "".join(cells))
    return "\n".join(lines)


def plots(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """A plot of each: predicted over measured with their equality, or both over x."""
    return [_over_x(one) if one.x is not None else _against(one) for one in found]


def _against(one: Compared) -> dict[str, Any]:
    rows = [
        {"measured": float(m), "predicted": float(p), "of": str(g)}
        for m, p, g in zip(one.measured, one.predicted, one.group, strict=True)
    ]
    both = np.concatenate([one.measured, one.predicted])
    low, high = float(both.min()) * 0.95, float(both.max()) * 1.05
    kind = "log" if high > 20 * low else "linear"
    scale = {"type": kind, "domain": [low, high], "nice": False}
    return {
        "title": f"{one.name}, {one.unit}", "width": 250, "height": 220,
        "layer": [
            {"data": {"values": [{"v": low}, {"v": high}]},
             "mark": {"type": "line", "color": GREY, "strokeDash": [4, 4]},
             "encoding": {"x": {"field": "v", "type": "quantitative", "scale": scale},
                          "y": {"field": "v", "type": "quantitative", "scale": scale}}},
            {"data": {"values": rows}, "mark": {"type": "point", "filled": True, "size": 28},
             "encoding": {
                 "x": {"field": "measured", "type": "quantitative", "title": "measured"},
                 "y": {"field": "predicted", "type": "quantitative", "title": "predicted"},
                 "color": {"field": "of", "type": "nominal", "title": None}}},
        ],
    }  # fmt: skip


def _over_x(one: Compared) -> dict[str, Any]:
    assert one.x is not None
    rows = []
    for x in np.unique(one.x):
        at = one.x == x
        low, middle, high = np.quantile(one.measured[at], [0.1, 0.5, 0.9])
        told = float(np.median(one.predicted[at]))
        row = {"x": x, "low": low, "measured": middle, "high": high, "predicted": told}
        rows.append({name: float(value) for name, value in row.items()})
    x_axis = {
        "field": "x",
        "type": "quantitative",
        "title": one.x_name,
        "scale": {"zero": False, "padding": 10},
    }
    y_axis = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    return {
        "title": one.name.replace(" over that at the highest cap", " / uncapped"),
        "width": 200, "height": 200, "data": {"values": rows},
        "layer": [
            {"mark": {"type": "rule", "color": GREY},
             "encoding": {"x": x_axis, "y": {"field": "low", **y_axis}, "y2": {"field": "high"}}},
            {"mark": {"type": "point", "filled": True, "color": COLOURS[0], "size": 45},
             "encoding": {"x": x_axis, "y": {"field": "measured", **y_axis}}},
            {"mark": {"type": "line", "color": COLOURS[1]},
             "encoding": {"x": x_axis, "y": {"field": "predicted", **y_axis}}},
        ],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the errors; a mistake in the input is told without a stack trace."""
    import argparse

    from forerun.errors import ForerunError

    parser = argparse.ArgumentParser(prog="python -m forerun.calibrate.power_run")
    parser.add_argument("file")
    parser.add_argument("--plot", metavar="PICTURE.svg")
    given = parser.parse_args(arguments)
    try:
        found = compare(given.file)
        if given.plot:
            draw(plots(found), given.plot)
    except ForerunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
