"""How far predictions are from measurements, by device, operator and regime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from forerun.cli._options import Output, output_options

#: how tables are split
OPERATORS, RUNS = "op,device,regime", "mode+runtime,device+runtime"


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option(
    "--by", metavar="NAME,...",
    help="One table each: op, device, runtime, dtype, regime, or several joined by +; of runs "
    f"mode, device, runtime, model.  [default: {OPERATORS}; of runs {RUNS}]",
)  # fmt: skip
@click.option("--family", "only", metavar="NAME", help="One family of operators alone.")
@click.option("--format", "form", metavar="NAME", help="The tables' format, else recognised.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@output_options()
def command(
    tables: tuple[str, ...],
    by: str | None,
    only: str | None,
    form: str | None,
    workers: int,
    out: Output,
) -> int:
    """Compare predictions with measured TABLEs (files or folders) of operators or serving runs.

    \b
    forerun accuracy measured.csv
    forerun accuracy measured.csv --by op+device,dtype --json

    Tables that no installed calibration was fitted to are predicted as `forerun predict ops` would.
    Of the others, shapes are held out and devices left out in turn, the rest is fitted anew, and
    what was kept back is predicted: no row that a fit has seen is in any table.

    The baselines for operators:

    \b
    roofline  the data sheet alone: max(flop / peak, bytes / memory rate)
    nearest   the nearest measured row, times the ratio of data sheets
    """
    from dataclasses import asdict

    from forerun.measure.threads import pin

    pin(1)  # before numpy is imported: matrices of a fit are small
    from forerun.calibrate.accuracy import accuracy
    from forerun.calibrate.judged import lines as operator_lines
    from forerun.calibrate.judged import text as operator_text
    from forerun.calibrate.serving_errors import lines as run_lines
    from forerun.calibrate.serving_errors import text as run_text
    from forerun.cli._output import emit

    runs, rest = runs_of(tables)
    of_operators, of_runs = splits_of(by, bool(rest), runs is not None)
    found: dict[str, tuple[tuple[str, ...], Sequence[Any]]] = {}
    texts = []
    if rest:
        judged = accuracy(rest, only=only, form=form, workers=workers, say=out.note)
        for names in of_operators:
            found["+".join(names)] = names, operator_lines(judged, names)
            texts.append(operator_text(found["+".join(names)][1], names))
    if runs is not None:
        scored = _scored(runs, workers)
        for names in of_runs:
            found["runs by " + "+".join(names)] = names, run_lines(scored, names)
            texts.append(run_text(found["runs by " + "+".join(names)][1], names))
    emit(
        out,
        command="accuracy",
        text="\n\n".join(texts),
        data={"by": {key: [asdict(line) for line in table] for key, (_, table) in found.items()}},
        rows=[
            dict(zip(names, line.slice, strict=True))
            | {k: v for k, v in asdict(line).items() if k != "slice"}
            for names, table in found.values()
            for line in table
        ],
    )
    return 0


def splits_of(by: str | None, operators: bool, runs: bool) -> list[list[tuple[str, ...]]]:
    """How tables of operators and of runs are split, where there are such.

    Raises SpecError for names that split neither, or none of a kind that there is.
    """
    from forerun.calibrate.judged import BY, splits
    from forerun.calibrate.serving_errors import BY as RUNS_BY
    from forerun.errors import SpecError

    found = []
    for there, usual, known in ((operators, OPERATORS, BY), (runs, RUNS, RUNS_BY)):
        asked = splits(by or usual, tuple(dict.fromkeys((*BY, *RUNS_BY))))
        fit = [names for names in asked if set(names) <= set(known)]
        if there and not fit:
            what = f"splits no table of {'operators' if known is BY else 'runs'}"
            raise SpecError.one(f"--by {by}", what, f"one of {', '.join(known)}")
        found.append(fit if there else [])
    return found


def runs_of(tables: Sequence[str]) -> tuple[Any, list[str]]:
    """(the serving runs in files, folders and their folders, or None; paths to search for tables of
    operators)."""
    from pathlib import Path

    from forerun.measure.runs import joined, read_runs

    runs, rest = [], []
    for path in tables:
        own = read_runs(path)
        inside = sorted(Path(path).glob("*/")) if own is None else []
        runs += [r for r in (own, *map(read_runs, inside)) if r is not None]
        rest += [path] if own is None else []
    return joined(runs) if runs else None, rest


def _scored(runs: Any, workers: int) -> Any:
    """Runs predicted by profiles that were not fitted to them."""
    from forerun.calibrate.scored_runs import score
    from forerun.calibrate.serving import fit
    from forerun.cost.engine_profile import engines, profiles

    used = {p.origin for engine in engines() for p in profiles(engine)}
    return fit(runs, workers=workers)[1] if runs.origin in used else score(runs)
