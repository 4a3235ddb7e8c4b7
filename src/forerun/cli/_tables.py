"""`forerun predict ops|serving|training`: a table of questions in, the same rows answered out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_IN = click.argument("source", metavar="IN")
_OUT = click.option("-o", "--output", "to", metavar="OUT", help="CSV or Parquet; else CSV here.")
_QUIET = click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")


def _batch(name: str, what: str, columns: str) -> Callable[..., click.Command]:
    def made(answer: Callable[[Any], dict[str, Any]]) -> click.Command:
        def run(source: str, to: str | None, quiet: bool) -> int:
            from forerun.cli._output import check_writable
            from forerun.spec.columns import as_csv, read_columns, write_columns

            check_writable(to)
            table = read_columns(source)
            answers = answer(table)
            if to is None:
                click.echo(as_csv(answers), nl=False)
            else:
                write_columns(to, answers)
            if not quiet:
                n_refused = sum(1 for sentence in answers["refused"] if sentence)
                wrote = f"; wrote {to}" if to else ""
                click.echo(f"{table.n - n_refused} of {table.n} rows answered{wrote}", err=True)
            return 0

        text = (
            f"Predict {what}, one a row of IN (CSV or Parquet), into OUT: the same rows with "
            f"{columns}. A row that cannot be answered says why in `refused`; an empty cell takes "
            "a default, named in `assumed`. Exits 0 when every row was answered or refused."
        )
        for option in (_QUIET, _OUT, _IN):
            run = option(run)
        return click.command(name, help=text)(run)

    return made


@_batch("ops", "operators", "time_s, low_s, high_s, flop, hbm_bytes, energy_j and source")
def ops(table: Any) -> dict[str, Any]:
    from forerun.api._ops import predict_ops

    return predict_ops(table)


@_batch("serving", "serving runs", "TTFT, TPOT, end-to-end latency, throughput, energy and money")
def serving(table: Any) -> dict[str, Any]:
    from forerun.api._serving import predict_serving

    return predict_serving(table)


@_batch("training", "training steps", "iteration time, throughput, memory, energy and money")
def training(table: Any) -> dict[str, Any]:
    from forerun.api._training import predict_training

    return predict_training(table)
