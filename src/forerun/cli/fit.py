"""Does a model fit: weights, KV cache, longest context, requests at once, and what would help."""

from __future__ import annotations

from typing import Any

import click

from forerun.cli._options import Output, output_options

NOTHING_FITS = 3
#: flags of one pool: name -> field; those of its engine after
_POOL = {"tp": int, "pp": int, "dp": int, "ep": int}
_ENGINE = {"max_num_seqs": int, "max_num_batched_tokens": int, "max_model_len": int,
           "gpu_memory_utilization": float}  # fmt: skip


def _pool_options(function: Any) -> Any:
    for name, kind in reversed((_POOL | _ENGINE).items()):
        flag = "--" + name.replace("_", "-")
        variable = "FORERUN_" + name.upper()
        function = click.option(flag, name, type=kind, envvar=variable)(function)
    function = click.option("--kv-dtype", "--kv-cache-dtype", envvar="FORERUN_KV_DTYPE")(function)
    function = click.option("--dtype", "--quantization", envvar="FORERUN_DTYPE")(function)
    return function


@click.command()
@click.argument("model")
@click.option(
    "--gpu",
    "--device",
    "gpus",
    required=True,
    envvar="FORERUN_GPU",
    metavar="NAME,...",
    help="One device type or several: l4,h100.  `forerun show device` lists them.",
)
@_pool_options
@output_options()
def command(model: str, gpus: str, out: Output, **settings: Any) -> int:
    """Say whether MODEL (a catalog name, or the path of a config.json) fits, and what it leaves.

    \b
    forerun fit llama-3.1-8b --gpu l4
    forerun fit llama-3.1-70b --gpu l40s,a100-80gb,h100 --tp 2 --dtype fp8

    Exits 3 when it fits on none of the devices.
    """
    from forerun import api, catalog
    from forerun.cli._output import emit
    from forerun.errors import SpecError

    problems: list[Any] = []
    found, devices = None, []
    try:
        found = catalog.model(model)
    except SpecError as error:
        problems += error.problems
    for name in filter(None, (part.strip().partition(":")[0] for part in gpus.split(","))):
        try:
            devices.append(catalog.device(name))
        except SpecError as error:
            problems += error.problems
    names = [device.name for device in devices] or ["?"]
    pools = [_pool(name, settings, problems) for name in names]
    if found is None or problems:
        raise SpecError(*dict.fromkeys(problems))
    fits = [api.fit(found, d, pool=pool) for d, pool in zip(devices, pools, strict=True)]
    rows = [_row(fit) for fit in fits]
    data = {"model": found.name, "params": fits[0].params, "devices": rows}
    emit(out, command="fit", text=_text(fits), data=data, rows=[_flat(row) for row in rows])
    return 0 if any(fit.fits for fit in fits) else NOTHING_FITS


def _pool(device: str, settings: dict[str, Any], problems: list[Any]) -> Any:
    """The pool that the flags describe; what is wrong with them joins the problems."""
    from pydantic import ValidationError

    from forerun.spec.bridge import problems_of
    from forerun.spec.deployment import Pool
    from forerun.spec.tree import of_mapping
    from forerun.spec.yaml import Origin

    given = {name: value for name, value in settings.items() if value is not None}
    engine = {name: given.pop(name) for name in _ENGINE if name in given}
    data = {"device": device, **given, "engine": engine}
    try:
        return Pool.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error, of_mapping(data, Origin("flag")), Pool)
    return None


def _row(fit: Any) -> dict[str, Any]:
    kept = fit.memory
    return {
        "device": fit.device,
        "fits": fit.fits,
        "tp": fit.pool.tp,
        "devices_per_replica": fit.pool.devices_per_replica,
        "hbm_bytes": kept.hbm_bytes if kept else None,
        "budget_bytes": kept.budget_bytes if kept else None,
        "weights_bytes": kept.weights_bytes if kept else None,
        "activation_bytes": kept.activation_bytes if kept else None,
        "reserve_bytes": kept.reserve_bytes if kept else None,
        "kv_pool_bytes": max(kept.kv_pool_bytes, 0.0) if kept else None,
        "kv_bytes_per_token": kept.kv_bytes_per_token if kept else None,
        "max_context": fit.max_context,
        "concurrency": {str(k): v for k, v in fit.concurrency().items()},
        "smallest_tp": fit.smallest_tp,
        "problems": [problem.what for problem in fit.problems],
        "suggestions": list(fit.suggestions),
        "assumed": list(fit.assumed),
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists as text, for CSV."""
    lists = {k: "; ".join(v) for k, v in row.items() if isinstance(v, list)}
    held = "; ".join(f"{n} x {context}" for context, n in row["concurrency"].items())
    return {**row, **lists, "concurrency": held}


def _text(fits: Any) -> str:
    from forerun import units
    from forerun.cli._output import Table

    contexts = sorted({c for fit in fits for c in fit.concurrency() if c in (1024, 8192, 32768)})
    head = ["device", "fits", "weights", "runtime", "KV cache", "KV/token", "max context"]
    head += [f"x {context:,}" for context in contexts]

    def size(value: float) -> str:
        return units.show(value, "bytes")

    rows, remarks = [], []
    for fit in fits:
        kept, n = fit.memory, fit.pool.devices_per_replica
        name = fit.device if n == 1 else f"{n} x {fit.device}"
        if kept is None:
            rows.append([name, "no", *["-"] * (len(head) - 2)])
        else:
            held = fit.concurrency()
            rows.append([
                name, "yes" if fit.fits else "no", size(kept.weights_bytes),
                size(kept.activation_bytes + kept.reserve_bytes), size(max(kept.kv_pool_bytes, 0)),
                size(kept.kv_bytes_per_token), f"{fit.max_context:,}" if fit.max_context else "-",
                *(f"{held[c]:,}" if c in held else "-" for c in contexts),
            ])  # fmt: skip
        remarks += [f"{name}: {problem.what}" for problem in fit.problems]
        remarks += [f"  try: {suggestion}" for suggestion in fit.suggestions]
    lines = [
        f"{fits[0].model}: {fits[0].params / 1e9:,.4g} billion parameters; sizes are of one device"
    ]
    if contexts:
        lines.append("x N: requests of N tokens, prompt and answer, whose KV caches fit at once")
    assumed = dict.fromkeys(note for fit in fits for note in fit.assumed)
    lines += ["", Table(head, rows).text()]
    lines += ["", *remarks] if remarks else []
    lines += ["", *(f"assumed: {note}" for note in assumed)] if assumed else []
    return "\n".join(lines)
