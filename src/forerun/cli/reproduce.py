"""Reproduce a paper's claims: simulate its case and say whether our numbers are its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from forerun.cli._options import Output, output_options

if TYPE_CHECKING:
    from forerun.claims import Report, Result

OUTSIDE = 4


@click.command()
@click.argument("paper", required=False)
@click.option("--claim", "only", multiple=True, metavar="NAME", help="Only this claim (repeat).")
@click.option("--quick", is_flag=True, help="Fewer requests, a shorter band: a first look.")
@click.option("--list", "listing", is_flag=True, help="The papers, or a paper's claims; run none.")
@click.option(
    "--data", metavar="FOLDER", envvar="FORERUN_MEASUREMENTS",
    help="Published measurements that do not ship with Forerun.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of every random draw.")
@click.option("--expect", metavar="STATUS", help="Exit 4 unless every claim ends in this status.")
@output_options()
def command(
    paper: str | None, only: tuple[str, ...], quick: bool, listing: bool, data: str | None,
    seed: int, expect: str | None, out: Output,
) -> int:  # fmt: skip
    """Run the published case of a PAPER's claims and compare.

    \b
    forerun reproduce sarathi-serve --quick

    Without PAPER, or with --list, the papers.  Each claim ends as reproduced, ratio-only,
    input-dependent, not-reproduced or not-reproducible-here, with its reasons; the exit code is 0
    whichever it is, unless --expect asks for one.
    """
    from forerun import claims
    from forerun.cli._output import check_writable, emit
    from forerun.errors import nearest

    if expect is not None and expect not in claims.STATUSES:
        fix = nearest(expect, claims.STATUSES)
        raise click.UsageError(f"--expect: no status is called {expect!r}\n  try: {fix}")
    check_writable(out.to)
    if paper is None or listing:
        _list(paper, out)
        return 0
    found = claims.load(paper)
    report = _run(found, only, quick, _folder(data), seed, out)
    answer = report.to_dict()
    rows = [
        {k: claim[k] for k in ("claim", "published", "value", "low", "high", "unit", "status")}
        for claim in answer["claims"]
    ]
    emit(out, command="reproduce", text=text(report), data=answer, rows=rows)
    unmet = [r.claim.name for r in report.results if expect and r.status != expect]
    if unmet:
        out.note(f"not {expect}: {', '.join(unmet)}")
        return OUTSIDE
    return 0


def _folder(data: str | None) -> Any:
    """The folder of measurements: the one given, else the user's own where there is one."""
    from pathlib import Path

    from forerun.errors import SpecError
    from forerun.paths import data_dir

    if data is not None:
        if not Path(data).is_dir():
            raise SpecError.one("--data", f"there is no folder {data!r}", "check the path")
        return Path(data)
    usual = data_dir() / "measurements"
    return usual if usual.is_dir() else None


def _run(
    paper: Any, only: Sequence[str], quick: bool, data: Any, seed: int, out: Output
) -> Report:  # fmt: skip
    from forerun import claims
    from forerun.report.progress import Progress

    with Progress("reproducing", quiet=out.quiet or not out.progress) as bar:
        done = 0

        def step(what: str) -> None:
            nonlocal done
            done += 1
            bar.label = what
            bar.update(done)

        return claims.reproduce(
            paper, only=only, quick=quick, data=data, seed=seed, progress=step
        )  # fmt: skip


def _list(paper: str | None, out: Output) -> None:
    from forerun import claims
    from forerun.cli._output import Table, emit

    if paper is None:
        papers = [claims.load(name) for name in claims.names()]
        rows = [
            {"paper": p.paper, "technique": p.technique, "claims": len(p.claims), "title": p.title}
            for p in papers
        ]
    else:
        rows = [
            {"claim": c.name, "published": c.value, "unit": c.unit, "where": c.where}
            for c in claims.load(paper).claims
        ]
    table = Table(tuple(rows[0]), [[str(v) for v in row.values()] for row in rows]).text()
    key = "papers" if paper is None else "claims"
    emit(out, command="reproduce", text=table, data={key: rows}, rows=rows)


def text(report: Report) -> str:
    """The report for a human: a summary table, then each claim with its evidence."""
    from forerun.cli._output import Table

    paper = report.paper
    how = "quick look, " if report.quick else ""
    lines = [
        paper.title, f"{paper.version}; {paper.url}",
        f"technique {paper.technique}, {how}seed {report.seed}", "",
    ]  # fmt: skip
    head = ("claim", "published", "here", "status")
    body = [(r.claim.name, _published(r), _value(r), r.status) for r in report.results]
    lines.append(Table(head, body).text())
    for result in report.results:
        lines += ["", *_claim(result)]
    counts = [f"{n} {status}" for status, n in report.counts().items() if n]
    return "\n".join([*lines, "", ", ".join(counts)])


def _claim(result: Result) -> list[str]:
    from forerun.cli._output import Table

    claim, found = result.claim, result.found
    lines = [f"{claim.name}: {result.status}", *_wrapped(f"{claim.says} ({claim.where})")]
    for reason in result.reasons:
        lines += _wrapped(f"- {reason}")
    if found is None:
        return lines
    lines += ["", *("  " + line for line in Table(found.columns, found.rows).text().splitlines())]
    if found.band:
        rows = [(p.label, _number(p.value), p.detail) for p in found.band]
        table = Table(("moved", "here", "by case"), rows).text()
        lines += ["", *("  " + line for line in table.splitlines())]
    if found.ablation is not None:
        verdict = "the gain is gone" if found.ablation_holds else "the gain is still there"
        limit = f"at most {_number(found.ablation_limit)} allowed"
        value = _number(found.ablation.value)
        lines += [
            "",
            *_wrapped(f"without it ({found.ablation.label}): {value}, {limit}: {verdict}"),
        ]
    if found.notes or claim.explanation:
        lines.append("")
    for note in found.notes:
        lines += _wrapped(f"note: {note}")
    if claim.explanation and not found.stand_ins:
        lines += _wrapped(f"why: {claim.explanation.strip()}")
    return lines


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, 98, initial_indent="  ", subsequent_indent="    ")


def _published(result: Result) -> str:
    claim = result.claim
    if claim.value == 0:
        return f"within {claim.tolerance:g}"
    return f"{claim.value:g} {claim.unit}"


def _value(result: Result) -> str:
    return "-" if result.found is None else _number(result.found.value)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
