"""Predict one point for each GPU: TTFT, TPOT, tokens a second, dollars and joules a token."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Given, Output, case_options, output_options

NOTHING_FITS = 3


class Predict(click.Command):
    """A command of its own for a model, and one for each kind of table: `predict ops IN`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ):
        table = _tables().get(args[0]) if args else None
        if table is None:
            return super().make_context(info_name, args, parent, **extra)
        return table.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)


def _tables() -> dict[str, click.Command]:
    from forerun.cli._tables import ops, serving, training

    return {"ops": ops, "serving": serving, "training": training}


@click.command(cls=Predict)
@case_options
@output_options()
def command(given: Given, out: Output) -> int:
    """Predict a MODEL on one GPU or several, by a short simulation of each.

    \b
    forerun predict llama-3.1-8b --gpu l4,l40s,h100 --isl 1000 --osl 200 --rate 4
    forerun predict ops|serving|training IN -o OUT    # a table: one question a row

    Without a rate, latencies are of single requests on an idle deployment, and throughput, money
    and energy of a saturated one.  The +/- is the cost model's 80 % interval.  Exits 3 when the
    model fits nowhere, or an SLO was given and nothing meets it.
    """
    from forerun import api
    from forerun.cli._case import reading_of
    from forerun.cli._output import emit
    from forerun.cli._start import without_blas

    found = reading_of(given, out, may_lack=api.MAY_LACK)
    without_blas()
    points = api.predict(found.case, found.wishes)
    rows = [point.row() for point in points]
    data = {"seed": found.case.seed, "points": [{**r, "problems": list(p.problems)} for r, p in
                                               zip(rows, points, strict=True)]}  # fmt: skip
    emit(out, command="predict", text=_text(points), data=data, rows=rows)
    run = [point for point in points if not point.problems]
    if not run or (all(point.slo_met is False for point in run)):
        return NOTHING_FITS
    return 0


def _text(points: Any) -> str:
    from forerun.cli._output import Table
    from forerun.metrics.figure import text

    head = ["device", "TTFT p50", "p99", "TPOT p50", "p99", "output", "cost", "energy", "+/-"]
    judged = any(point.slo_met is not None for point in points)
    head += ["SLO"] if judged else []
    rows, remarks = [], []
    for p in points:
        if p.problems:
            rows.append([p.device, *["-"] * (len(head) - 1)])
            remarks += [f"{p.device}: {problem}" for problem in p.problems]
            continue
        row = [
            p.device,
            *(text(v, "s") for v in (p.ttft_p50_s, p.ttft_p99_s, p.tpot_p50_s, p.tpot_p99_s)),
            text(p.output_tokens_per_s, "token/s"),
            text(p.usd_per_million_output_tokens, "USD/Mtoken"),
            text(p.energy_j_per_output_token, "J/token"),
            f"{100 * (p.low - 1):+.0f} {100 * (p.high - 1):+.0f} %",
        ]
        if judged:
            row.append({True: "met", False: "missed", None: "-"}[p.slo_met])
        rows.append(row)
        remarks.append(f"{p.device}: {p.deployment}; {p.load}; +/-: {p.why}")
        if p.is_overloaded:
            remarks.append(
                f"  overloaded: it finishes {text(p.requests_per_s, 'req/s')}, so latencies grow "
                "as long as the load lasts"
            )
    return Table(head, rows).text() + "\n\n" + "\n".join(remarks)
