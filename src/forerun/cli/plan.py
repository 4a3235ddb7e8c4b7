"""Plan what to rent: the cheapest deployments that meet the SLO, what binds, what would help."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Given, Output, case_options, output_options

NOTHING = 3
INTERRUPTED = 130
SIZES = ("tp", "pp", "dp", "ep")
#: problems of the case's own deployment, which a plan does not use
_OWN = tuple(f"deployment.pools.{i}.{key}" for i in range(16) for key in ("device", "replicas"))


@click.command()
@case_options
@click.option(
    "--objective", type=click.Choice(["cost", "energy", "carbon", "latency"]), default="cost",
    show_default=True, help="What the ranking goes by.",
)  # fmt: skip
@click.option("--dtypes", metavar="bf16,fp8", help="Weight formats to try beside each other.")
@click.option(
    "--up-to", type=click.IntRange(1), default=64, show_default=True, metavar="N",
    help="Devices of a type that --gpu names without a number.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Rows shown.")
@click.option("--workers", type=click.IntRange(1), help="Processes; chosen when absent.")
@click.option("--fresh", is_flag=True, help="Simulate again what an earlier run has kept.")
@click.option("--save", metavar="FILE", help="Write the case with the first choice deployed.")
@output_options()
def command(
    given: Given, objective: Any, dtypes: str | None, up_to: int, top: int, workers: int | None,
    fresh: bool, save: str | None, out: Output,
) -> int:  # fmt: skip
    """Find the cheapest deployments that meet the SLO of a CASE (a YAML file; forerun.yaml when
    absent), or of a MODEL with flags.

    \b
    forerun plan
    forerun plan case.yaml --objective energy --dtypes bf16,fp8
    forerun plan llama-3.1-8b --gpu h100,l40s,l4 --trace chat --ttft '500 ms' --tpot '50 ms'

    The deployment in the case gives the engine and the router; sizes and replicas are searched.
    Exits 3 when nothing meets the SLO, with what binds and the smallest changes that help; Ctrl-C
    keeps what is simulated, prints the command that goes on and exits 130.
    """
    from forerun.cli._case import reading_of
    from forerun.cli._output import check_writable, emit
    from forerun.plan.search import plan
    from forerun.plan.store import Store, usual_path
    from forerun.report.progress import Progress

    check_writable(out.to, save)
    found = reading_of(given, out, may_lack=_OWN)
    keep = {name for name in (*SIZES, "replicas") if name in given.flags}
    store = Store(None if fresh else usual_path())
    try:
        with Progress("planning", quiet=out.quiet or not out.progress) as bar:
            answer = plan(
                _fleet(found.case, given, up_to), wishes=found.wishes, objective=objective,
                dtypes=_formats(dtypes), keep=keep, top=top, store=store, workers=workers,
                progress=bar.update,
            )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(_stopped(store), err=True)
        return INTERRUPTED
    finally:
        store.close()
    if save and answer.best is not None:
        _save(answer.answered, save, out)
    rows = [choice.row() for choice in answer.choices[:top]]
    emit(out, command="plan", text=_text(answer, top), data=answer.to_dict(), rows=rows)
    return 0 if answer.is_feasible else NOTHING


def _fleet(case: Any, given: Given, up_to: int) -> Any:
    """Devices that --gpu or --fleet names without a number may be rented up to `up_to`."""
    from forerun import catalog
    from forerun.spec.case import Fleet

    parts = [part.strip() for part in given.flags.get("fleet", "").split(",") if part.strip()]
    free = {catalog.device(part).name for part in parts if ":" not in part and "{" not in part}
    if not free:
        return case
    groups = {
        name: group.model_copy(update={"count": up_to}) if name in free else group
        for name, group in case.fleet.devices.items()
    }
    return case.model_copy(update={"fleet": Fleet(devices=groups)})


def _formats(text: str | None) -> tuple[Any, ...]:
    """The formats named.  Raises SpecError with the nearest names."""
    from forerun.errors import Problem, SpecError, nearest
    from forerun.spec.dtype import WEIGHT_BYTES

    names = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    wrong = [
        Problem("--dtypes", f"no format {name!r}", nearest(name, WEIGHT_BYTES))
        for name in names
        if name not in WEIGHT_BYTES
    ]
    if wrong:
        raise SpecError(*wrong)
    return names


def _stopped(store: Any) -> str:
    import shlex
    import sys

    kept = f"{store.n_new} simulations are kept" if store.path else "nothing was kept"
    return f"interrupted: {kept}; go on with\n  {shlex.join(['forerun', *sys.argv[1:]])}"


def _save(case: Any, path: str, out: Output) -> None:
    """The case with the first choice as its deployment, ready for `forerun simulate`."""
    from forerun.cli._output import save
    from forerun.plan.write import as_yaml

    save(path, as_yaml(case))
    out.note(f"wrote {path}: forerun simulate {path}")


def _text(plan: Any, top: int) -> str:
    from forerun.metrics.figure import text
    from forerun.report.table import source_words

    case, lines = plan.case, []
    goals = [f"{k} <= {text(v, 's')}" for k, v in case.slo.model_dump().items()
             if v is not None and k != "attainment"]  # fmt: skip
    lines.append(
        f"{case.name}: {case.model}, {plan.provenance['n_requests']:,} requests; "
        f"{text(case.slo.attainment, 'share')} of them must keep {', '.join(goals)}"
    )
    lines += ["", _table(plan, top) if plan.choices else "Nothing meets these goals."]
    rest = len(plan.choices) - top
    if rest > 0:
        lines.append(f"and {rest} more that meet them (--top {len(plan.choices)})")
    lines += ["", *plan.explanation]
    if plan.remedies:
        lines += ["", "What would help:", *(f"  {one}" for one in plan.remedies)]
    lines += _bound(plan)
    if plan.left_out:
        lines += ["", "Left out:", *(f"  {one.candidate}: {one.sentence}" for one in plan.left_out)]
    prices = ", ".join(_price(name, p) for name, p in plan.provenance["prices"].items())
    lines += ["", f"prices: {prices}; seed {case.seed}; "
                  f"catalog {plan.provenance['catalog_version']}"]  # fmt: skip
    if plan.choices:
        found = source_words(plan.choices[0].point.cost_sources)
        lines.append(
            f"step costs of the first choice: {found}; rates, latencies and energy are simulated, "
            "brackets at the ends of the cost model's 80 % interval"
        )
    return "\n".join(lines)


def _price(name: str, price: Any) -> str:
    from forerun.metrics.figure import text

    if price["usd_per_hour"] is None:
        return f"{name} unknown (--set fleet.{name}.price_usd_per_hour='2 USD/h')"
    where = " ".join(filter(None, (price.get("provider"), price.get("date"))))
    return f"{name} {text(price['usd_per_hour'], 'USD/h')} ({where or price['source']})"


def _table(plan: Any, top: int) -> str:
    from forerun.cli._output import Table
    from forerun.metrics.figure import text

    carbon = any(c.gco2e_per_hour is not None for c in plan.choices)
    head = ["", "replicas of", "cost", "output", "power", *(["carbon"] if carbon else []), "good",
            "TTFT p99", "TPOT p99", "carries", "safe"]  # fmt: skip
    rows = []
    for i, c in enumerate(plan.choices[:top], 1):
        p = c.point
        safe = "yes" if c.safe else f"no, {c.safe_replicas} are" if c.safe_replicas else "no"
        most = "> " if c.capacity_is_least else ""
        grams = "unknown" if c.gco2e_per_hour is None else f"{text(c.gco2e_per_hour, 'gCO2e')}/h"
        rows.append([
            str(i), f"{c.replicas} x {c.candidate.name}", text(c.usd_per_hour, "USD/h"),
            text(c.usd_per_million_output_tokens, "USD/Mtoken"), text(p.power_w, "W"),
            *([grams] if carbon else []), _good(p),
            _band(p.ttft_p99_s, c.ttft_p99_band_s), _band(p.tpot_p99_s, c.tpot_p99_band_s),
            "-" if c.capacity_per_s is None else most + text(c.capacity_per_s, "req/s"), safe,
        ])  # fmt: skip
    return Table(head, rows).text()


def _good(point: Any) -> str:
    from forerun.metrics.figure import text

    if point.attainment_low is None:
        return text(point.attainment, "share")
    low, high = (text(v, "share") for v in (point.attainment_low, point.attainment_high))
    return text(point.attainment, "share") + ("" if low == high else f" [{low}, {high}]")


def _band(value: float | None, ends: tuple[float | None, float | None]) -> str:
    from forerun.metrics.figure import text

    if value is None:
        return "-"
    return f"{text(value, 's')} [{text(ends[0], 's')}, {text(ends[1], 's')}]"


def _bound(plan: Any) -> list[str]:
    from forerun.metrics.figure import text

    one = plan.lower_bound
    if one is None:
        return []
    cost = "" if one.usd_per_hour is None else f", {text(one.usd_per_hour, 'USD/h')}"
    words = {"flop": "flop at peak", "bytes": "bytes at peak", "weights": "room for the weights",
             "kv": "room for the KV cache"}  # fmt: skip
    line = (
        f"Lower bound: a perfect system needs {one.devices} x {one.device}{cost} "
        f"({words[one.binding]}: {one.by_limit[one.binding]:.2g} devices)"
    )
    if plan.gap is not None:
        took = "no more" if plan.gap == 1 else f"{plan.gap:.3g} times that"
        line += f"; the first choice takes {took}"
    return ["", line + "."]
