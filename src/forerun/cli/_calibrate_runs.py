"""Engine profiles from published serving runs."""

from __future__ import annotations

import click

from forerun.cli._options import Output


@click.command("runs")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option("-o", "--output", "to", metavar="FOLDER", required=True, help="One file an engine.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def command(tables: tuple[str, ...], to: str, workers: int, quiet: bool) -> int:
    """Fit what engines' hosts cost to TABLEs of measured serving runs.

    \b
    forerun calibrate runs measured.csv -o profiles/

    A table has the columns of `forerun predict serving` and ttft_s and tpot_s (means).  Runs are
    split into halves by configuration; the printed errors are of each half with a profile fitted to
    the other.
    """
    from pathlib import Path

    from forerun.measure.threads import pin

    pin(1)  # before numpy is imported: matrices of a fit are small
    from forerun.calibrate.serving import fit, save
    from forerun.calibrate.serving_errors import lines, text
    from forerun.cli.accuracy import runs_of

    out = Output("table", quiet, False, None)
    found, rest = runs_of(tables)
    for path in rest:
        out.note(f"{path} holds no serving runs")
    profiles, scored = fit(found, workers=workers)
    for one in profiles:
        out.note(f"wrote {save(one, Path(to))}")
    by = ("mode", "runtime")
    click.echo(text(lines(scored, by), by))
    return 0
