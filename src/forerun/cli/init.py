"""Write a case to start from: chat, code or long-context."""

from __future__ import annotations

from pathlib import Path

import click

from forerun.cli._options import Output, output_options

_TEMPLATES = Path(__file__).parent / "templates"


@click.command()
@click.argument("name", default="chat")
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@output_options(csv=False)
def command(name: str, force: bool, out: Output) -> None:
    """Write forerun.yaml, a whole case to start from, and its schema for your editor.

    NAME is chat (the default), code or long-context.  -o names another file.
    """
    from forerun.cli._output import dumps, save
    from forerun.errors import SpecError, nearest
    from forerun.spec.schema import schema

    names = sorted(path.stem for path in _TEMPLATES.glob("*.yaml"))
    if name not in names:
        raise SpecError.one("init", f"no template {name!r}", nearest(name, names))
    target = Path(out.to or "forerun.yaml")
    if target.exists() and not force:
        fix = "--force replaces it, -o FILE writes another"
        raise SpecError.one(str(target), "is there already and was left alone", fix)
    schema_file = target.with_name("forerun.schema.json")
    header = f"# yaml-language-server: $schema={schema_file.name}\n"
    save(target, header + (_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8"))
    save(schema_file, dumps(schema("case"), indent=2) + "\n")
    out.note(f"wrote {target} and {schema_file}; next: forerun simulate {_shown(target)}".rstrip())


def _shown(target: Path) -> str:
    return "" if str(target) == "forerun.yaml" else str(target)
