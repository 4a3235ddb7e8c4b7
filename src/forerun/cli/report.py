"""Write one self-contained HTML report of a case, or of a result saved before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from forerun.cli._options import Given, Output, case_options, output_options


@click.command()
@case_options
@click.option("--html", "html", default="report.html", show_default=True, metavar="FILE")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@output_options(csv=False)
def command(given: Given, html: str, opens: bool, out: Output) -> int:
    """Write a report of a CASE, of a MODEL with flags, or of a RESULT.json.

    \b
    forerun report case.yaml
    forerun simulate case.yaml --json -o result.json && forerun report result.json

    A result holds its case: it is simulated again, which takes seconds and gives the same bytes
    with the same version; where a figure differs from the saved one, that is said.
    """
    from forerun.cli._case import case_of
    from forerun.cli._output import check_writable
    from forerun.cli.simulate import run, write_files

    check_writable(html, out.to)
    saved = None
    if given.fresh and given.flags["model"].endswith(".json"):
        saved = _saved(given.flags["model"])
    if saved is not None:
        from forerun import api

        rest = {k: v for k, v in given.flags.items() if k != "model"}
        found = api.read(_with_units(saved["case"]), given.overrides, flags=rest, project=False)
        given = replace(given, flags=rest)
        case = found.case
    else:
        case = case_of(given, out)
    result = run(case, "full", out)
    if saved is not None and not given.flags and not given.overrides:
        for line in _differences(saved, result.to_dict()):
            out.note(line)
    write_files(result, out, html=html)
    if out.form in ("json", "jsonl") or out.to:
        from forerun.cli.simulate import show

        show(result, out)
    if opens:
        click.launch(Path(html).resolve().as_uri())
    return 0


def _saved(path: str) -> dict[str, Any] | None:
    """A saved result, or None for another JSON file (a model's config)."""
    import json

    from forerun.errors import SpecError
    from forerun.spec.yaml import read_text

    text, name = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}:{error.colno}"
        fix = "forerun simulate CASE --json -o result.json writes a result"
        raise SpecError.one(where, f"is not JSON: {error.msg}", fix) from None
    if not isinstance(data, dict) or "schema_version" not in data:
        return None
    if not isinstance(data.get("case"), dict):
        what = "is an answer without a case, so it cannot be run again"
        raise SpecError.one(name, what, "a result of `forerun simulate --json`")
    return data


def _with_units(value: Any, field: str = "") -> Any:
    """A dumped case as a file would have it: SI numbers get the unit that their field declares."""
    from forerun import units

    if isinstance(value, dict):
        return {k: _with_units(v, k) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_with_units(v, field) for v in value]
    dimension = units.dimension_of(field)
    if dimension and isinstance(value, (int, float)) and value and math.isfinite(value):
        base = next(unit for unit, factor in units.UNITS[dimension].items() if factor == 1.0)
        return f"{value!r} {base}"
    return value


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Sentences on what a repeated run gives otherwise than the saved one."""
    from forerun.cli._output import _plain

    out = []
    then, here = saved["provenance"], now["provenance"]
    for key in ("forerun_version", "spec_hash"):
        if then.get(key) != here.get(key):
            out.append(f"{key} was {then.get(key)}, is {here.get(key)}")
    for group in ("counts", "latency", "throughput", "goodput"):
        if saved.get(group) != _plain(now[group]):
            out.append(f"{group}: the saved figures differ from those of this run")
    return out
