"""Power of devices, and what caps do to it, from metered runs."""

from __future__ import annotations

import click

from forerun.cli._options import Output


@click.command("energy")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option("-o", "--output", "to", metavar="FOLDER", help="Else the user's data folder.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def command(tables: tuple[str, ...], to: str | None, quiet: bool) -> int:
    """Fit what devices draw to TABLEs (files or folders of metered runs).

    \b
    forerun calibrate energy metered.csv

    A table has the columns of `forerun predict serving` (concurrency: the mean batch),
    output_tokens_per_s and power_w, the mean of all devices of the run.  The printed errors of
    power are on models, and those of energy under caps on jobs, that the fit did not see.
    """
    from pathlib import Path

    from forerun.calibrate import energy, power_cap
    from forerun.cli._output import Table
    from forerun.cost.energy import user_folder
    from forerun.measure.energy import joined, read_all

    out = Output("table", quiet, False, None)
    folder = Path(to) if to else user_folder()
    runs, capped = read_all(tables)
    for reason, n in (pair for part in runs for pair in part.n_dropped.items() if pair[1]):
        out.note(f"  {n:,} rows {reason} are left out")
    lines = []
    for device in sorted({name for part in runs for name in part.device}):
        part = joined([part for part in runs if device in part.device])
        found = energy.fit(part, device)
        if unpriced := int((part.device == device).sum()) - found.rows:
            out.note(f"  {unpriced:,} runs of {device} are of models that cannot be priced here")
        out.note(f"wrote {energy.save(found, folder)}")
        lines.append([device, "power", str(found.rows), *_shown(found.error, "power_w")])
    for jobs in capped:
        curve = power_cap.fit(jobs)
        out.note(f"wrote {power_cap.save(curve, folder)}")
        names = " and ".join(curve.devices)
        lines.append([names, "energy under caps", str(curve.rows), *_shown(curve.error, "model")])
    click.echo(Table(["device", "of", "rows", "median error", "90 % below"], lines).text())
    return 0


def _shown(error: dict[str, float], name: str) -> list[str]:
    """Median and p90 as per cent; unknown where nothing could be left out."""
    values = [error.get(f"{name} {part}", float("nan")) for part in ("median", "p90")]
    return [f"{value:.1%}" if value == value else "unknown" for value in values]
