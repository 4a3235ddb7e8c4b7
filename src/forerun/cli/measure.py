"""Measure operators on this machine, at the few shapes that tell most; --check runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from forerun import processors
from forerun.cli._options import Output

RUN_BY = "onnxruntime_cpu"  # the backend that can run a model


@click.command()
@click.option(
    "--backend", "names", metavar="NAME,...",
    help="Libraries: onnxruntime_cpu, numpy_cpu, torch, cupy.  Else the best one here.",
)  # fmt: skip
@click.option(
    "-o", "--output", "to", metavar="FILE.csv",
    help="Else measurements/<host>.csv in the data folder.",
)  # fmt: skip
@click.option(
    "--minutes", default=5.0, show_default=True, metavar="N", type=click.FloatRange(0),
    help="Stop after so many, or sooner.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Else all cores.")
@click.option("--quick", is_flag=True, help="A third of the points, each timed twice.")
@click.option(
    "--resume/--fresh", default=True, help="Go on where it was stopped (default), or anew."
)
@click.option(
    "--check", is_flag=True,
    help="Then predict a small transformer, run it on onnxruntime, and compare.",
)  # fmt: skip
@click.option("--into", metavar="REPORT.html", help="Add the comparison to a report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, versioned.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def command(
    names: str | None, to: str | None, minutes: float, threads: int | None, quick: bool,
    resume: bool, check: bool, into: str | None, as_json: bool, quiet: bool,
) -> int:  # fmt: skip
    """Measure operators on what is here, and write a table that `forerun calibrate ops` reads.

    \b
    forerun measure -o mine.csv --minutes 3
    forerun calibrate ops mine.csv
    forerun measure --check              # and see what that is worth on this machine

    An interrupt loses nothing: the same command goes on.  Thread counts are pinned.  A processor is
    described by a sheet that is measured too and kept among the devices of your data folder.
    """
    if (check or into) and names and RUN_BY not in names.split(","):
        raise click.UsageError("--check runs a model on onnxruntime: --backend onnxruntime_cpu")
    from forerun.measure.threads import pin

    cores = processors.usable()
    count = threads or cores
    pin(count)
    from forerun.cli._output import check_writable, emit

    check_writable(into)
    out = Output("json" if as_json else "table", quiet, False, None)
    check = check or bool(into)
    if check:
        from forerun.calibrate.onnx_loop import needed

        needed()
    if count > cores:
        out.note(f"{count} threads on {cores} cores: they will wait for each other")
    chosen = _chosen(names, check)
    table = _table(to, resume)
    found = [_measure(name, table, count, minutes, quick, out) for name in chosen]
    text = "\n".join(_said(taken) for taken, _ in found)
    data: dict[str, Any] = {"measured": [_data(taken) for taken, _ in found]}
    if check:
        mine = next(pair for name, pair in zip(chosen, found, strict=True) if name == RUN_BY)
        compared = _compare(*mine, threads=count, quick=quick, out=out)
        text += "\n\n" + _compared_text(compared)
        data["compared"] = compared.summary()
        if into:
            from forerun.report.measured import add_section

            add_section(into, compared)
            out.note(f"added the comparison to {into}")
    emit(out, command="measure", text=text, data=data, rows=[])
    return 0


def _chosen(names: str | None, check: bool) -> list[str]:
    """The backends that are named, else the best that is here: a GPU's, then onnxruntime."""
    from forerun.measure.backends import backend, here

    if names:
        return [name for name in names.split(",") if name]
    if check:
        return [RUN_BY]
    known = here()
    if "torch" in known and backend("torch").has_gpu():
        return ["torch"]
    order = ("cupy", "onnxruntime_cpu", "torch", "numpy_cpu")
    return [next(name for name in order if name in known)]


def _table(to: str | None, resume: bool) -> Path:
    """Where the table goes; without `resume`, what was measured for it before is forgotten."""
    from forerun import paths
    from forerun.errors import SpecError
    from forerun.measure import machine
    from forerun.measure.passes import passes_path

    if to and not to.endswith(".csv"):
        raise SpecError.one(to, "is no name for a table of measurements", f"{to}.csv")
    usual = paths.data_dir() / "measurements" / f"{machine.describe().host}.csv"
    table = Path(to) if to else usual
    if not resume:
        passes_path(table).unlink(missing_ok=True)
    return table


def _measure(
    name: str, table: Path, threads: int, minutes: float, quick: bool, out: Output
) -> tuple[Any, Any]:
    from forerun.measure.backends import ready
    from forerun.measure.passes import Passes
    from forerun.measure.take import take

    bench = ready(name, threads)
    passes = Passes.of(table)
    if passes.found:
        out.note(f"goes on with {len(passes.found)} points of {passes.path}")
    if passes.cut:
        out.note("the last pass was cut off and is taken anew")
    try:
        taken = take(
            bench, passes, table, threads=threads, minutes=minutes, say=out.note,
            share=0.3 if quick else 1.0, rounds=2 if quick else 3,
        )  # fmt: skip
    except KeyboardInterrupt:
        out.note(f"stopped; what was measured is in {table}, and the same command goes on")
        raise
    return taken, bench


def _said(taken: Any) -> str:
    from forerun import units

    lines = [
        f"{taken.table}: {taken.points} of {taken.wanted} points of {taken.device.name} with "
        f"{taken.runtime}, {taken.noisy} noisy, {taken.seconds:.0f} s"
    ]
    if taken.device.kind == "cpu":
        peak = units.show(taken.device.peak_flop_per_s["fp32"], "flop_per_s")
        rate = units.show(taken.device.hbm_bytes_per_s, "bytes_per_s")
        lines.append(f"{taken.device.name}, measured: {peak} fp32, {rate}")
    if not taken.done:
        left = "some have one pass or two" if taken.points == taken.wanted else "more are to come"
        lines.append(f"the time was over before all was sure ({left}); the same command goes on")
    return "\n".join(lines)


def _data(taken: Any) -> dict[str, Any]:
    return {
        "table": str(taken.table), "device": taken.device.name, "runtime": taken.runtime,
        "points": taken.points, "wanted": taken.wanted, "noisy": taken.noisy,
        "seconds": taken.seconds, "done": taken.done,
    }  # fmt: skip


def _compare(taken: Any, bench: Any, *, threads: int, quick: bool, out: Output) -> Any:
    from forerun.calibrate.onnx_loop import FEW, MODELS, loop
    from forerun.measure.tables import read_tables

    (table,) = read_tables(taken.table, "plain")
    out.note("predicts a small transformer from these points, then runs it")
    return loop(
        table, device=taken.device.name, runtime=taken.runtime, threads=threads,
        start_s=bench.start_s, rounds=2 if quick else 3, models=FEW if quick else MODELS,
        pace=taken.pace, n_noisy=taken.noisy,
    )  # fmt: skip


def _compared_text(compared: Any) -> str:
    from forerun.cli._output import Table

    return "\n\n".join((
        Table(compared.HEAD, compared.rows()).text(), "\n".join(compared.words()),
    ))  # fmt: skip
