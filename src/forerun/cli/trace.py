"""Traces of traffic: describe one, convert its format, or synthesise one like it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forerun.cli._options import Output, output_options

if TYPE_CHECKING:
    from forerun.spec.requests import Requests

_SOURCE = click.argument("source", metavar="TRACE")
_FORMAT = click.option("--format", "form", metavar="NAME", help="Of the trace; else detected.")
_SKIP = click.option("--skip-bad", is_flag=True, help="Count bad rows instead of stopping.")
_SORT = click.option("--sort", is_flag=True, help="Put rows in order of arrival.")
_TO = click.option("--to", metavar="FORMAT", default="plain", help="Format to write: plain, ...")


@click.group()
def command() -> None:
    """Describe, convert and synthesise traces of traffic.

    TRACE is a file in any known format (forerun trace formats), a workload's YAML, or the name of
    a bundled workload.
    """


@command.command()
@output_options()
def formats(out: Output) -> None:
    """List the formats that are read and written."""
    from forerun.cli._output import Table, emit
    from forerun.spec import traces

    rows = [
        {"format": name, "read": "yes", "written": "yes" if name in traces.writable() else "no"}
        for name in traces.formats()
    ]
    table = Table(("format", "read", "written"), [tuple(row.values()) for row in rows])
    emit(out, command="trace formats", text=table.text(), data={"formats": rows}, rows=rows)


@command.command()
@click.argument("sources", metavar="TRACE...", nargs=-1, required=True)
@_FORMAT
@_SKIP
@_SORT
@output_options()
def describe(sources: tuple[str, ...], form: str | None, skip_bad: bool, sort: bool, out: Output):
    """Say what traces are like: rate, bursts, lengths, sharing.  Several stand side by side."""
    from forerun.cli._output import Table, emit
    from forerun.spec.traces.describe import describe as description

    found: dict[str, dict[str, Any]] = {}
    shown: dict[str, dict[str, str]] = {}
    for source in sources:
        requests = _read(source, form, skip_bad, sort, out)
        numbers = list(description(requests).rows())
        found[source] = {"trace": source, "format": requests.meta.get("format")}
        found[source] |= {name: value for name, value, _ in numbers}
        shown[source] = {name: _text(value, unit) for name, value, unit in numbers}
    names = list(dict.fromkeys(name for numbers in shown.values() for name in numbers))
    body = [(name, *(shown[s].get(name, "-") for s in shown)) for name in names]
    table = Table(("", *(Path(s).name for s in shown)), body)
    rows = list(found.values())
    emit(out, command="trace describe", text=table.text(), data={"traces": rows}, rows=rows)


@command.command()
@_SOURCE
@click.argument("target", metavar="FILE")
@_FORMAT
@_TO
@_SKIP
@_SORT
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def convert(
    source: str, target: str, form: str | None, to: str, skip_bad: bool, sort: bool, quiet: bool
) -> None:
    """Write TRACE to FILE in another format, and say what that format cannot hold."""
    from forerun.cli._output import check_writable
    from forerun.spec import traces

    out = Output("table", quiet, False, None)
    check_writable(target)
    requests = _read(source, form, skip_bad, sort, out)
    for sentence in traces.convert(requests, target, to):
        out.note(f"left out: {sentence}")
    out.note(f"wrote {len(requests):,} requests to {target} ({to})")


@command.command()
@_SOURCE
@click.option("--n", "n", type=int, metavar="N", help="Draw so many requests.")
@click.option("--duration", metavar="TIME", help="Draw so long a stretch: '1 h'.")
@click.option("--rate-scale", type=float, default=1.0, help="Multiply the rate: more users.")
@click.option("--seed", type=int, default=0, envvar="FORERUN_SEED", show_default=True)
@_FORMAT
@_TO
@_SKIP
@_SORT
@click.option("-o", "--output", "to_file", metavar="FILE", help="Parameters or requests go there.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def synth(
    source: str,
    n: int | None,
    duration: str | None,
    rate_scale: float,
    seed: int,
    form: str | None,
    to: str,
    skip_bad: bool,
    sort: bool,
    to_file: str | None,
    quiet: bool,
) -> None:
    """Fit a few shareable parameters to TRACE; with --n or --duration draw requests from them.

    \b
    forerun trace synth mine.csv -o workload.yaml        parameters, a few kB
    forerun trace synth workload.yaml --n 10000 -o a.csv requests like those of mine.csv
    """
    from forerun import api, units
    from forerun.cli._output import check_writable
    from forerun.spec import traces
    from forerun.spec.traces import synth as synths

    out = Output("table", quiet, False, None)
    draws = n is not None or duration is not None
    if to_file is None:
        raise click.UsageError("-o says where the requests or the parameters go")
    check_writable(to_file)
    found = api.workload(source)
    if found is None:
        found = synths.fit(_read(source, form, skip_bad, sort, out), name=Path(source).stem)
    if not draws:
        synths.save(found, to_file)
        worst = sorted(found.errors.items(), key=lambda item: -abs(item[1]))[:3]
        errors = ", ".join(f"{name} {100 * error:+.0f} %" for name, error in worst)
        out.note(f"wrote {to_file}: fitted to {found.n_fitted:,} requests; largest errors of a")
        out.note(f"draw of the same length: {errors or 'none'}")
        return
    seconds = units.parse(duration, "time", where="--duration") if duration else None
    drawn = found.draw(n, duration_s=seconds, seed=seed, rate_scale=rate_scale)
    for sentence in traces.convert(drawn, to_file, to):
        out.note(f"left out: {sentence}")
    out.note(f"wrote {len(drawn):,} requests to {to_file} ({to}), seed {seed}")


def _read(source: str, form: str | None, skip_bad: bool, sort: bool, out: Output) -> Requests:
    """The requests of a file, or those a bundled workload was described by."""
    from forerun import api
    from forerun.spec import traces

    found = api.workload(source)
    if found is not None:
        drawn = found.draw(found.n_fitted)
        out.note(f"{source} is a workload: {len(drawn):,} requests drawn with seed 0")
        return drawn
    requests = traces.read(source, format=form, skip_bad=skip_bad, sort=sort)
    skipped = requests.meta.get("skipped") or {}
    if skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        out.note(f"{source}: left out {reasons}")
    return requests


def _text(value: Any, unit: str) -> str:
    from forerun import units

    if unit == "s":
        return units.show(value, "time")
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f"{number} {unit}".rstrip() if unit != "/s" else f"{number} /s"
