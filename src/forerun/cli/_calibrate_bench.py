"""Host terms and factors of an engine from the result of a load generator."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Output
from forerun.spec.settings import SETTING_BY_NAME

#: what describes the machine that was measured; its traffic stands in the result
MACHINE = ("model", "fleet", "tp", "pp", "ep", "dp", "replicas", "dtype", "kv-dtype",
           "max-num-seqs", "max-num-batched-tokens", "max-model-len", "gpu-memory-utilization",
           "batch", "seed")  # fmt: skip
LABELS = {
    "ttft_s_mean": "TTFT mean", "ttft_s_p50": "TTFT p50", "ttft_s_p99": "TTFT p99",
    "tpot_s_mean": "TPOT mean", "tpot_s_p99": "TPOT p99", "e2el_s_mean": "latency mean",
}  # fmt: skip


def _machine_options(function: Any) -> Any:
    for name in reversed(MACHINE):
        setting = SETTING_BY_NAME[name]
        flags = [f"--{name}", *(f"--{alias}" for alias in setting.aliases)]
        target = f"set_{name.replace('-', '_')}"
        function = click.option(
            *flags, target, metavar=setting.example, envvar=setting.variable, help=setting.help
        )(function)
    return function


@click.command("bench")
@click.option(
    "--from", "files", multiple=True, required=True, metavar="FILE",
    help="A result: vllm bench serve, sglang.bench_serving, guidellm, aiperf, Prometheus. "
    "May be given several times.",
)  # fmt: skip
@_machine_options
@click.option("-o", "--output", "to", metavar="FILE", help="Where the calibration is written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, versioned.")
@click.option("-q", "--quiet", is_flag=True, envvar="FORERUN_QUIET", help="No remarks.")
def command(
    files: tuple[str, ...], to: str | None, as_json: bool, quiet: bool, **given: Any
) -> int:
    """Turn one benchmark of your own into a calibrated twin, with the error on what was held out.

    \b
    vllm bench serve ... --save-result --save-detailed
    forerun calibrate --from result.json --model llama-3.1-8b --fleet h100:1 -o mine.yaml
    forerun simulate case.yaml --calibration mine.yaml
    """
    from forerun.calibrate.bench import calibrate
    from forerun.cli._output import check_writable, emit
    from forerun.cost import engine_fit
    from forerun.measure import bench

    check_writable(to)
    out = Output("json" if as_json else "table", quiet, False, None)
    flags = {name: value for name in MACHINE if (value := given[f"set_{name.replace('-', '_')}"])}
    runs = [run for file in files for run in bench.read(file)]
    model, deployment, seed = _machine(flags, runs, out)
    found = calibrate(runs, model, deployment, seed=seed)
    if to:
        engine_fit.save(found.fit, to)
        out.note(f"wrote {to}: forerun simulate ... --calibration {to}")
    data = {
        "fit": found.fit.model_dump(mode="json"), "before": found.before, "after": found.after,
        "held_out": found.held_out, "deviations": found.deviations, "notes": list(found.notes),
        "seconds": found.seconds, "simulations": found.n_simulations,
    }  # fmt: skip
    emit(out, command="calibrate", text=_text(found, runs), data=data, rows=[])
    return 0


def _machine(flags: dict[str, str], runs: list[Any], out: Output) -> tuple[Any, Any, int]:
    """The model, the deployment and the seed that the flags describe."""
    from forerun import api, catalog
    from forerun.errors import Problem, SpecError

    if "model" not in flags and runs and runs[0].model:
        flags["model"] = runs[0].model  # as the benchmark calls it
    missing = [
        Problem(f"--{name}", "is missing", fix)
        for name, fix in (("model", "--model llama-3.1-8b"), ("fleet", "--fleet h100:1"))
        if name not in flags
    ]
    if missing:
        raise SpecError(*missing)
    traffic = {"isl": {"mean": max(1, round(runs[0].mean_isl))}, "concurrency": 1,
               "osl": {"mean": max(1, round(runs[0].mean_osl))}, "n_requests": 1}  # fmt: skip
    found = api.read({"traffic": traffic}, flags=flags)
    deployment = found.case.deployment
    if deployment is None:
        deployment = api.default_deployment(found.case, found.wishes)
        out.note(f"the machine: {api.words(deployment)}")
    return catalog.model(found.case.model), deployment, found.case.seed


def _text(found: Any, runs: list[Any]) -> str:
    from forerun import units
    from forerun.calibrate.bench import NAMES
    from forerun.cli._output import Table
    from forerun.cost.engine_fit import HOST

    fit = found.fit
    lines = [f"{run.file.name}: {run.tool}, {run.n:,} requests, {run.load}" for run in runs]
    rows = []
    for name in NAMES:
        value = getattr(fit, name)
        shown = units.show(value, "time") if name in HOST else f"{value:.3f}"
        told = "not told by this benchmark" if name in fit.untold else ""
        rows.append([name, shown, told])
    lines += ["", Table(["coefficient", "value", ""], rows).text(), ""]
    where = f"on {found.held_out}" if found.held_out else "of the fit itself (nothing to hold out)"
    errors = [
        [LABELS[name], f"{100 * found.before[name]:.1f} %", f"{100 * found.after[name]:.1f} %"]
        for name in LABELS
        if name in found.after
    ]
    lines += [f"error {where}", Table(["", "before", "calibrated"], errors).text()]
    lines += [""] if found.notes else []
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)
