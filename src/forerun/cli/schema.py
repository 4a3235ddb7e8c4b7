"""JSON Schema of a description, for editors and other programs."""

from __future__ import annotations

import click

from forerun.cli._options import Output, output_options

_KINDS = "case, fleet, traffic, slo, budget, deployment, device, link, model"


@click.command(help=f"JSON Schema of a KIND of description: {_KINDS}.")
@click.argument("kind", default="case")
@output_options(csv=False)
def command(kind: str, out: Output) -> None:
    from forerun.cli._output import dumps, write
    from forerun.spec.schema import schema

    write(out, dumps(schema(kind), indent=2))
