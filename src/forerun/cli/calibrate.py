"""Calibrate costs: from one benchmark of your own, or from tables of measured operators."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

_FOLDER = Path(__file__).parent
_PREFIX = "_calibrate_"


class Kinds(click.Group):
    """One file `cli/_calibrate_<kind>.py` a kind; without one, options are those of `bench`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(p.stem.removeprefix(_PREFIX) for p in _FOLDER.glob(f"{_PREFIX}*.py"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return importlib.import_module(f"forerun.cli.{_PREFIX}{name}").command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["bench", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Kinds)
def command() -> None:
    """Calibrate what steps cost.

    \b
    forerun calibrate --from BENCH.json --model llama-3.1-8b --fleet h100:1 -o mine.yaml
    forerun simulate ... --calibration mine.yaml
    """
