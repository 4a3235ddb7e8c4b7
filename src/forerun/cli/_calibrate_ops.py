"""Coefficients of operators from tables of measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from forerun.cli._options import Output


@click.command("ops")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option("-o", "--output", "to", metavar="FOLDER", help="Else the user's data folder.")
@click.option("--family", "only", metavar="NAME", help="One family of operators alone.")
@click.option("--format", "form", metavar="NAME", help="The tables' format, else recognised.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def command(
    tables: tuple[str, ...],
    to: str | None,
    only: str | None,
    form: str | None,
    workers: int,
    quiet: bool,
) -> int:
    """Fit operator costs to TABLEs (files or folders of measured operators).

    \b
    forerun measure -o mine.csv
    forerun calibrate ops mine.csv
    forerun predict ops questions.csv

    Writes one calibration a family, device and runtime, which every command uses from then on, and
    prints the errors on rows held out of the fit.
    """
    from forerun.measure.threads import pin

    pin(1)  # before numpy is imported: matrices of a fit are small
    from forerun.calibrate.judged import lines, text
    from forerun.calibrate.run import calibrate, counted, write
    from forerun.cost.calibration import user_folder

    out = Output("table", quiet, False, None)
    folder = Path(to) if to else user_folder()
    _check_folder(folder)
    done = calibrate(tables, only=only, form=form, workers=workers, say=out.note)
    written = write(done, folder)
    size = sum(path.stat().st_size for path in written)
    out.note(f"wrote {counted(len(written), 'calibration')}, {size / 1e6:.2f} MB, to {folder}")
    for line in hidden(done, folder):
        out.note(line)
    if not done.judged:
        out.note("too few rows to hold any out: errors are not known")
        return 0
    click.echo(text(lines(done.judged, ("op",)), ("op",)))
    return 0


def hidden(done: Any, folder: Path) -> list[str]:
    """Calibrations of few rows that will not answer, because one of more rows ships."""
    from forerun.cost.calibration import SHIPPED, Store, user_folder

    if folder != user_folder():
        return []
    store, said = Store(folder, SHIPPED), []
    for own in (own for found in done.fits for own in found.calibrations if own.device):
        first = store.get(store.files(own.family)[own.file_name])
        if first.rows > own.rows:
            said.append(
                f"{own.family}: {own.rows} rows of {own.device} are few; the calibration that "
                f"ships, of {first.rows:,} rows, goes on answering for what it knows"
            )
    return said


def _check_folder(folder: Path) -> None:
    """Raises SpecError, before minutes of fitting, where nothing can be written."""
    import os

    from forerun.errors import SpecError

    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SpecError.one("--output", f"{place} is no folder that can be written", "another one")
