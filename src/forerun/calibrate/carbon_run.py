"""Published carbon of sites, each beside what the catalog's grids and the accounting here give.

    python -m forerun.calibrate.carbon_run FILE [--grid REGION=PLACE ...] [--plot PICTURE.svg]

FILE (CSV, .gz allowed) has a row a region, as the GreenSKU framework's azure_dc_data.csv:

    Region, Renewable %, Avg Grid Intensity, Avg Renewable Intensity, CI

intensities in gCO2e/kWh, CI (of a site that buys so much from renewables) in kgCO2e/kWh.  Two
things are compared: the grid's intensity with that of the catalog's PLACE, and CI with the grams of
one kilowatt hour at the mix of both.  Nothing is fitted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from forerun import catalog
from forerun.calibrate.pictures import draw
from forerun.calibrate.power_run import Compared, plots, report
from forerun.errors import SpecError
from forerun.metrics.carbon import J_PER_KWH, operational_gco2e
from forerun.spec.columns import read_columns

NEEDED = ("Renewable %", "Avg Grid Intensity", "Avg Renewable Intensity", "CI")
#: Azure's regions in the file, and the catalog's grid nearest to each: states of the US by the
#: data centre of Google Cloud that is fed by the same or the neighbouring grid
PLACES = {
    "europewest": "nl", "europenorth": "ie", "useast": "us-east4", "ussouth": "us-south1",
    "uscentral": "us-central1", "uswest2": "us-west1", "uswest": "us-west2",
}  # fmt: skip


def compare(path: str | Path, places: Mapping[str, str] = PLACES) -> list[Compared]:
    """Intensities of the regions that have a place, and the mixes of all.

    Raises SpecError for what is missing or no number, and for places that no catalog names.
    """
    table = read_columns(path)
    missing = [name for name in ("Region", *NEEDED) if name not in table.names]
    if missing:
        what = f"has no column {', '.join(missing)}"
        raise SpecError.one(str(path), what, f"it has {table.names}")
    numbers = {name: table.number(name)[0] for name in NEEDED}
    bad = ~np.all([np.isfinite(column) & (column >= 0) for column in numbers.values()], axis=0)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise SpecError.one(f"{path}{table.place(first)}", "has no number", "remove these rows")
    region = np.asarray(table.text("Region"))
    share = numbers["Renewable %"] / 100
    mix = share * numbers["Avg Renewable Intensity"] + (1 - share) * numbers["Avg Grid Intensity"]
    grams = np.array([operational_gco2e(J_PER_KWH, float(one)) for one in mix])
    known = np.array([name in places for name in region], dtype=bool)
    ours = [catalog.grid(places[name]).gco2e_per_kwh for name in region[known]]
    return [
        Compared("grid intensity", "gCO2e/kWh", numbers["Avg Grid Intensity"][known],
                 np.array(ours, dtype=float), region[known]),
        Compared("carbon of a kilowatt hour", "gCO2e", 1e3 * numbers["CI"], grams, region),
    ]  # fmt: skip


def shown(found: Sequence[Compared]) -> str:
    """A line a region, then the errors."""
    lines = []
    for one in found:
        lines.append(f"{one.name}, {one.unit}")
        for name, theirs, ours in zip(one.group, one.measured, one.predicted, strict=True):
            lines.append(f"  {name:14}{theirs:10.1f} published{ours:10.1f} here"
                         f"{100 * (ours / theirs - 1):+8.0f}%")  # fmt: skip
    return "\n".join([*lines, "", report(found)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison; a mistake in the input is told without a stack trace."""
    import argparse

    from forerun.errors import ForerunError

    parser = argparse.ArgumentParser(prog="python -m forerun.calibrate.carbon_run")
    parser.add_argument("file")
    parser.add_argument("--grid", action="append", default=[], metavar="REGION=PLACE")
    parser.add_argument("--plot", metavar="PICTURE.svg")
    given = parser.parse_args(arguments)
    try:
        own = dict(text.partition("=")[::2] for text in given.grid)
        found = compare(given.file, {**PLACES, **own})
        if given.plot:
            draw(plots(found), given.plot)
    except ForerunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(shown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
