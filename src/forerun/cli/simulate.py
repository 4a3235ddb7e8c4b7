"""Simulate traffic on a deployment: latencies, goodput, cost, and the reason behind them."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Given, Output, case_options, output_options

MISSED = 3
INTERRUPTED = 130


@click.command()
@case_options
@click.option("--csv", "csv", metavar="FILE", help="One row a request, as CSV.")
@click.option("--parquet", metavar="FILE", help="One row a request, as Parquet.")
@click.option("--html", metavar="FILE", help="One self-contained report.")
@click.option("--perfetto", metavar="FILE", help="A trace for ui.perfetto.dev.")
@click.option(
    "--log",
    type=click.Choice(["full", "requests"]),
    default="full",
    show_default=True,
    help="What is kept: steps and requests, or requests only (faster; no energy).",
)
@click.option("--policy", "given_policies", multiple=True, metavar="KIND=FILE.py:FUNCTION")
@output_options(csv=False)
def command(
    given: Given,
    csv: str | None,
    parquet: str | None,
    html: str | None,
    perfetto: str | None,
    log: str,
    given_policies: tuple[str, ...],
    out: Output,
) -> int:
    """Simulate a CASE (a YAML file, - for stdin; forerun.yaml when absent) or a MODEL with flags.

    \b
    forerun simulate
    forerun simulate case.yaml --set fleet.h100-sxm.count=8
    forerun simulate llama-3.1-8b --gpu h100:4 --trace chat --ttft '500 ms' --html report.html

    Exits 3 when the SLO is missed or the model does not fit; Ctrl-C prints what is known so far
    and exits 130.
    """
    from forerun.cli._case import case_of
    from forerun.cli._output import check_writable

    check_writable(csv, parquet, html, perfetto, out.to)
    given = _with_policies(given, given_policies)
    result = run(case_of(given, out), log, out)
    write_files(result, out, csv=csv, parquet=parquet, html=html, perfetto=perfetto)
    show(result, out)
    if result.provenance.get("interrupted"):
        out.note("interrupted: the answer is of what happened until then")
        return INTERRUPTED
    return MISSED if result.metrics.slo_met is False else 0


def run(case: Any, log: str, out: Output) -> Any:
    """The result, with a progress bar on a terminal."""
    from forerun import api
    from forerun.cli._start import without_blas
    from forerun.report.progress import Progress

    without_blas()
    with Progress("simulating", quiet=out.quiet or not out.progress) as bar:
        return api.simulate(case, log=log, progress=bar.update, announce=out.note)


def show(result: Any, out: Output) -> None:
    """Prints the answer in the form asked for."""
    import sys

    from forerun.cli._output import dumps, write
    from forerun.report import table

    if out.form in ("json", "jsonl"):
        write(out, dumps(result.to_dict(), indent=2 if out.form == "json" else None))
    elif out.to is None:
        table.show(result.report, sys.stdout)
    else:
        write(out, table.plain(result.report).rstrip("\n"))


def write_files(
    result: Any,
    out: Output,
    *,
    csv: str | None = None,
    parquet: str | None = None,
    html: str | None = None,
    perfetto: str | None = None,
) -> None:
    """Writes every file that was asked for, and says so on stderr."""
    from forerun.report import jsonout
    from forerun.report import perfetto as perfetto_trace

    if csv:
        jsonout.requests_csv(result.log, csv, result.case.slo)
        out.note(f"wrote {csv}: one row a request")
    if parquet:
        jsonout.requests_parquet(result.log, parquet, result.case.slo)
        out.note(f"wrote {parquet}: one row a request")
    if html:
        from forerun.report import html as html_report

        html_report.write_html(result.report, html)
        out.note(f"wrote {html}: open it in a browser")
    if perfetto:
        cut = perfetto_trace.write_trace(result.log, perfetto)
        out.note(f"wrote {perfetto}: drop it on ui.perfetto.dev" + (f" ({cut})" if cut else ""))


_OF_FLEET = ("route", "place", "gate")
_POLICY_KINDS = (*_OF_FLEET, "batch", "order", "admit", "preempt", "speculate")


def _with_policies(given: Given, policies: tuple[str, ...]) -> Given:
    """--policy route=mine.py:nearest as an override of the case."""
    from dataclasses import replace

    overrides = list(given.overrides)
    for text in policies:
        kind, equals, name = text.partition("=")
        if not equals or kind not in _POLICY_KINDS:
            others = ", ".join(k for k in _POLICY_KINDS if k != "route")
            hint = f"--policy route=my_router.py:my_router (or {others})"
            raise click.UsageError(f"--policy {text!r} names no kind\n  try: {hint}")
        key = f"deployment.{'' if kind in _OF_FLEET else 'engine.'}{kind}"
        overrides.append(f"{key}={name}")
    return replace(given, overrides=tuple(overrides))
