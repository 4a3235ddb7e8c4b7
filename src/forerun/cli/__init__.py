"""The command line: one file a command.

A file `cli/<name>.py` is the command `forerun <name>`: its first line is the help shown in the
list, and it holds a click command called `command`.  Files that begin with an underscore are
shared parts.  Nothing but the named command is imported, so `forerun --help` stays instant.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

_FOLDER = Path(__file__).parent

#: the order in which a newcomer meets them; a command not listed follows in alphabetical order
_ORDER = ("doctor", "fit", "predict", "simulate", "plan", "init", "show", "trace", "report")


class Commands(click.Group):
    """Finds commands by file name and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = [p.stem.replace("_", "-") for p in _FOLDER.glob("[a-z]*.py")]
        return sorted(names, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"forerun.cli.{name.replace('-', '_')}")
        return module.command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from forerun.errors import nearest

            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no command {args[0]!r}\n  try: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, first_line(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def first_line(name: str) -> str:
    """The first line of a command's docstring, read without importing it."""
    text = (_FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return text.removeprefix('"""').partition("\n")[0].removesuffix('"""').strip()


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from forerun.version import __version__

        click.echo(f"forerun {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 answered, goals met; 2 mistake in the input; 3 goals missed or nothing "
    "fits; 4 outside tolerance; 5 something optional is missing; 130 interrupted; 1 our mistake.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version)
def group() -> None:
    """Run it before you rent it: predict, simulate and plan AI workloads on any fleet."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code; a mistake of the user never shows a stack trace.

    A command makes hundreds of thousands of objects and keeps them to its end.  Looking through
    them for cycles again and again, and once more at the end, took a sixth of a prediction.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # we have none, it looks for some
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    if os.environ.get("FORERUN_DEBUG") == "1":
        sys.exit(group.main(args, prog_name="forerun", standalone_mode=False) or 0)
    try:
        code = group.main(args, prog_name="forerun", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as end:
        # click ends with 1, and marks its output, when a reader (head, less) has seen enough
        code = 0 if type(sys.stdout).__name__.endswith("PacifyFlushWrapper") else end.code
    except BaseException as error:
        from forerun.cli._errors import exit_code

        code = exit_code(error)
    sys.exit(code or 0)
