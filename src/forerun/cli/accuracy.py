"""How far predictions are from measurements, by device, operator and regime."""

from __future__ import annotations

import click

from forerun.cli._options import Output, output_options


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "--by", default="op,device,regime", show_default=True, metavar="NAME,...",
    help="One table each: op, device, runtime, dtype, regime, or several joined by +.",
)  # fmt: skip
@click.option("--family", "only", metavar="NAME", help="One family of operators alone.")
@click.option("--format", "form", metavar="NAME", help="The tables' format, else recognised.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@output_options()
def command(
    tables: tuple[str, ...],
    by: str,
    only: str | None,
    form: str | None,
    workers: int,
    out: Output,
) -> int:
    """Compare predictions with measured TABLEs (files or folders), beside two baselines.

    \b
    forerun accuracy measured.csv
    forerun accuracy measured.csv --by op+device,dtype --json

    Tables that no installed calibration was fitted to are predicted as `forerun predict ops` would.
    Of the others, shapes are held out and devices left out in turn, the rest is fitted anew, and
    what was kept back is predicted: no row that a fit has seen is in any table.

    \b
    roofline  the data sheet alone: max(flop / peak, bytes / memory rate)
    nearest   the nearest measured row, times the ratio of data sheets
    """
    from dataclasses import asdict

    from forerun.calibrate.accuracy import accuracy, lines, splits, text
    from forerun.cli._output import emit

    wanted = splits(by)
    judged = accuracy(tables, only=only, form=form, workers=workers, say=out.note)
    found = {"+".join(names): (names, lines(judged, names)) for names in wanted}
    emit(
        out,
        command="accuracy",
        text="\n\n".join(text(table, names) for names, table in found.values()),
        data={"by": {key: [asdict(line) for line in table] for key, (_, table) in found.items()}},
        rows=[
            dict(zip(names, line.slice, strict=True))
            | {k: v for k, v in asdict(line).items() if k != "slice"}
            for names, table in found.values()
            for line in table
        ],
    )
    return 0
