"""The reference, written from the code each time the documentation is built.

`pages()` gives every page as Markdown.  MkDocs runs this file as a hook (mkdocs.yml), which is why
it stands here and not in tools/: the pages exist only inside the build, so none can be stale, and
nothing has to be run first.  The tests call `pages()` without MkDocs.

    python docs/_reference.py FOLDER      writes the pages, for a reader without MkDocs
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES: dict[str, Callable[[], str]] = {}


def page(function: Callable[[], str]) -> Callable[[], str]:
    """A function whose text is the page reference/<its name>.md."""
    PAGES[function.__name__.rstrip("_")] = function
    return function


@functools.cache
def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown."""
    return {f"reference/{name}.md": write() for name, write in PAGES.items()}


# -- Markdown --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def cell(value: Any) -> str:
    text = "" if value is None else str(value)
    if not re.fullmatch(r"`[^`]*`", text):
        text = text.replace("<", "&lt;")
        text = re.sub(r"(?<![(<])(https?://[^\s,;)]+)", r"[\1](\1)", text)
    return text.replace("|", "\\|").replace("\n", " ")


def code(value: Any) -> str:
    return f"`{value}`"


def pre(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def doc(thing: Any) -> str:
    """A docstring as Markdown: prose flows, indented parts and lists of names stay as they are."""
    text = inspect.getdoc(thing) or ""
    out = []
    for part in re.split(r"\n\s*\n", text):
        aligned = re.search(r"(?m)^(    |\w+ +: |\w+: )", part) and "\n" in part
        out.append(pre(inspect.cleandoc(part)) if aligned else part.replace("<", "&lt;"))
    return "\n\n".join(out)


def first(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def signature(function: Any) -> str:
    try:
        return str(inspect.signature(function)).replace("'", "")
    except (TypeError, ValueError):
        return ""


def submodules(name: str) -> list[Any]:
    package = importlib.import_module(name)
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return [importlib.import_module(f"{name}.{m}") for m in sorted(found)]


# -- the command line ------------------------------------------------------------------------------


@page
def commands() -> str:
    import click

    from forerun.cli import first_line, group

    out = ["# Commands", ""]
    names = group.list_commands(click.Context(group))
    out += [table(("command", "what it does"), ((f"[{n}](#{n})", first_line(n)) for n in names))]
    out += ["", group.epilog or ""]
    from forerun.spec.settings import SETTINGS

    for name in names:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        out += ["", f"## {name}", "", first_line(name), *_help(command, f"forerun {name}")]
    out += ["", "## Settings", "", "Each has a flag, a variable and a key in a case file; a flag "
            "goes before a variable, a variable before the file.", ""]  # fmt: skip
    rows = ((code("--" + s.name), ", ".join(code("--" + a) for a in s.aliases), code(s.variable),
             code(s.path), s.help) for s in SETTINGS)  # fmt: skip
    out.append(table(("flag", "also", "variable", "key", "what"), rows))
    return "\n".join(out)


def _help(command: Any, path: str) -> list[str]:
    import click

    context = click.Context(
        command, info_name=path, terminal_width=88, max_content_width=88,
        help_option_names=["-h", "--help"],
    )  # fmt: skip
    out = ["", pre(command.get_help(context))]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            out += ["", f"### {path.removeprefix('forerun ')} {name}"]
            out += _help(inner, f"{path} {name}")
    return out


# -- the catalog -----------------------------------------------------------------------------------


def _shown(kind: str, name: str) -> list[dict[str, Any]]:
    """The rows that `forerun show` prints."""
    import json

    from click.testing import CliRunner

    from forerun.cli.show import command

    result = CliRunner().invoke(command, [kind, name, "--json"], standalone_mode=False)
    if result.exception:
        raise result.exception
    return json.loads(result.output)["fields"]


def _catalog(kind: str, names: Sequence[str], brief: Sequence[str]) -> str:
    """An overview with the fields of `brief`, then everything known of each, with its sources."""
    shown = {name: {row["field"]: row for row in _shown(kind, name)} for name in names}

    def get(name: str, fields: str) -> str:
        found = [shown[name][f]["shown"] for f in fields.split("|") if f in shown[name]]
        return found[0] if found else ""

    head = ["name", *(b.partition("|")[0].replace("peak_flop_per_s.", "") for b in brief)]
    rows = ([f"[{n}](#{anchor(n)})", *(get(n, b) for b in brief)] for n in names)
    out = [table(head, rows)]
    for name in names:
        sources = list(dict.fromkeys(r["source"] for r in shown[name].values()))
        out += ["", f"## {name} {{ #{anchor(name)} }}", ""]
        found = shown[name].values()
        out.append(
            table(
                ("field", "value", "source"),
                ((code(r["field"]), r["shown"], f"[{sources.index(r['source']) + 1}]")
                 for r in found),
            )
        )  # fmt: skip
        out += ["", *(f"{i}. {cell(s)}" for i, s in enumerate(sources, 1))]
    return "\n".join(out)


def anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", name.lower())


@page
def devices() -> str:
    from forerun import catalog

    brief = ("vendor", "kind", "year", "peak_flop_per_s.bf16|peak_flop_per_s.fp16",
             "peak_flop_per_s.fp8", "hbm_bytes", "hbm_bytes_per_s", "tdp_w",
             "price_usd_per_hour")  # fmt: skip
    intro = (
        "# Devices\n\nPeaks are dense. A device without bf16 shows its fp16 peak. Numbers in "
        "brackets are sources, below each table; what nobody publishes is unknown.\n\n"
    )
    return intro + _catalog("device", catalog.devices(), brief)


@page
def links() -> str:
    from forerun import catalog

    brief = ("bandwidth_bytes_per_s", "latency_s")
    return "# Links\n\nRates are one direction.\n\n" + _catalog("link", catalog.links(), brief)


@page
def models() -> str:
    from forerun import catalog

    brief = ("family", "parameters", "active parameters", "n_layers", "max_len", "KV per token")
    return "# Models\n\n" + _catalog("model", catalog.models(), brief)


@page
def workloads() -> str:
    from forerun.spec.traces import bundled

    rows = []
    for name in bundled.names():
        found = bundled.load(name)
        rows.append((code(name), getattr(found, "n_fitted", ""), getattr(found, "source", ""),
                     getattr(found, "licence", "")))  # fmt: skip
    head = ("name", "requests fitted to", "source", "licence")
    return "# Bundled workloads\n\nDrawn from fitted parameters; no row of a trace ships.\n\n" + (
        table(head, rows)
    )


# -- what decides and what computes ----------------------------------------------------------------


@page
def policies() -> str:
    from forerun.sim.core import signatures
    from forerun.sim.policy import ARGUMENTS, FOLDER, names

    out = ["# Policies", "", "A policy is a plain function; its file name is its name. "
           "[Write your own](../guides/policy.md) says how.", "", "## What a policy may read", "",
           pre(inspect.getdoc(signatures) or "")]  # fmt: skip
    for kind in ARGUMENTS:
        out += ["", f"## {kind}", "", pre(f"{kind}({', '.join(ARGUMENTS[kind])})", "python")]
        if kind in FOLDER:
            out += ["", f"Any `{FOLDER[kind]}` policy can be one."]
        for name in names(kind) if kind not in FOLDER else ():
            module = importlib.import_module(f"forerun.sim.policies.{kind}.{name}")
            out += ["", f"### {kind}/{name} {{ #{kind}-{name} }}", "", doc(module)]
            knobs = getattr(module, "PARAMS", {})
            if knobs:
                out += ["", table(("knob", "default"), ((code(k), v) for k, v in knobs.items()))]
            out += ["", pre(inspect.getsource(getattr(module, name)), "python")]
    return "\n".join(out)


@page
def techniques() -> str:
    package = importlib.import_module("forerun.techniques")
    found = package.names() if hasattr(package, "names") else _stems(package)
    out = ["# Techniques", ""]
    if not found:
        out.append("None ships yet.")
    for name in found:
        module = importlib.import_module(f"forerun.techniques.{name}")
        out += ["", f"## {name}", "", doc(module)]
        knobs = getattr(module, "KNOBS", {})
        rows = ((code(k), v.default, v.neutral, v.unit, v.meaning) for k, v in knobs.items())
        out += ["", table(("knob", "default", "neutral", "unit", "meaning"), rows)]
    return "\n".join(out)


def _stems(package: Any) -> list[str]:
    names = (m.name for m in pkgutil.iter_modules(package.__path__))
    return sorted(n for n in names if not n.startswith("_"))


@page
def operators() -> str:
    out = ["# Operators", "", "Flop and bytes as formulas, one file a family (`forerun/ops/`)."]
    for module in submodules("forerun.ops"):
        out += ["", f"## {module.__name__.rpartition('.')[2]}", "", doc(module)]
        for name, thing in _own(module):
            if inspect.isclass(thing):
                out += ["", f"### {name}", "", doc(thing)]
                out += _fields(thing)
            elif inspect.isfunction(thing):
                out += ["", f"### {name}", "", pre(f"{name}{signature(thing)}", "python"), "",
                        doc(thing)]  # fmt: skip
    return "\n".join(out)


def _own(module: Any) -> list[tuple[str, Any]]:
    return [
        (n, t) for n, t in vars(module).items()
        if not n.startswith("_") and getattr(t, "__module__", None) == module.__name__
        and (inspect.isclass(t) or inspect.isfunction(t))
    ]  # fmt: skip


def _fields(cls: Any) -> list[str]:
    if not dataclasses.is_dataclass(cls):
        return []
    rows = ((code(f.name), code(str(f.type).replace("'", ""))) for f in dataclasses.fields(cls))
    return ["", table(("field", "type"), rows)]


@page
def traces() -> str:
    from forerun.spec.traces import _modules, writable

    out = ["# Trace formats", "", "Told by content, not by file name."]
    for name, module in sorted(_modules().items()):
        how = "read and written" if name in writable() else "read"
        out += ["", f"## {name}", "", f"*{how}*", "", doc(module)]
    return "\n".join(out)


# -- answers ---------------------------------------------------------------------------------------


def metric_units() -> dict[str, tuple[str, str]]:
    """Every figure of an answer: name -> (group, unit), from the code."""
    from forerun.metrics import answer, rows
    from forerun.sim import log

    found = {name: ("latency", "s") for name in rows.LATENCIES}
    for item in dataclasses.fields(answer.Counts):
        found[item.name] = ("counts", "token" if item.name.endswith("tokens") else "count")
    units = {  # `Figure` carries the unit; one empty run has them all
        f.name: getattr(_no_run(), f.name).unit
        for f in dataclasses.fields(answer.Metrics) if f.type == "Figure"
    }  # fmt: skip
    assert log
    for group, names in rows.GROUPS.items():
        found |= {name: (group, units[name]) for name in names}
    return found


@functools.cache
def _no_run() -> Any:
    import forerun

    what = {"model": "llama-3.1-8b", "fleet": {"l4": 1}, "slo": {"ttft_s": "1 s"},
            "traffic": {"rate_per_s": "1 req/s", "n_requests": 2, "isl": 16, "osl": 4}}  # fmt: skip
    return forerun.simulate(forerun.load(what), bootstrap=False).metrics


@functools.cache
def definitions() -> dict[str, str]:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load((HERE / "_metrics.yaml").read_text("utf-8"))


@page
def metrics() -> str:
    from forerun.metrics import score, stats

    out = ["# Metrics", "", "Names are those of the JSON answer. Latencies come as mean, min, p50, "
           "p90, p95, p99 and max.", "",
           table(("name", "unit", "group", "what it is"),
                 ((code(n), unit, group, definitions().get(n, ""))
                  for n, (group, unit) in metric_units().items())),
           "", "## How they are taken", "", doc(score),
           "", "## Intervals", "", doc(stats)]  # fmt: skip
    return "\n".join(out)


@page
def errors() -> str:
    from forerun import errors as module

    kinds = [t for _, t in _own(module) if inspect.isclass(t) and issubclass(t, Exception)]
    rows = [(code(t.__name__), t.exit_code, first(t)) for t in kinds]
    codes = ((0, "answered, and goals met"), (1, "a mistake of ours"), (2, "a mistake in the "
             "input"), (3, "goals missed, or nothing fits"), (4, "outside tolerance"),
             (5, "something optional is missing"), (130, "interrupted"))  # fmt: skip
    return "\n".join([
        "# Errors and exit codes", "", table(("code", "means"), codes), "",
        "The library raises, the command line prints and exits. Each error carries all problems "
        "found in one go, each with where, what and fix.", "",
        table(("error", "exit code", "when"), rows),
    ])  # fmt: skip


@page
def schema() -> str:
    from forerun.spec.base import Spec
    from forerun.spec.schema import KINDS

    out = ["# Descriptions", "", "Fields as they are written in files; `forerun schema KIND` "
           "prints the JSON Schema."]  # fmt: skip
    kinds = [*KINDS.values()]
    seen: list[type[Spec]] = []
    while kinds:  # those named first, then what they are made of
        cls = kinds.pop(0)
        if cls in seen:
            continue
        seen.append(cls)
        kinds += [t for t in _mentioned(cls) if t not in seen]
    for cls in seen:
        out += ["", f"## {cls.__name__}", "", doc(cls), ""]
        rows = []
        for name, item in cls.model_fields.items():
            default = "required" if item.is_required() else code(item.get_default())
            rows.append((code(name), code(_type(item.annotation)), default, _unit(cls, name)))
        out.append(table(("field", "type", "default", "dimension"), rows))
    return "\n".join(out)


def _mentioned(cls: Any) -> list[Any]:
    from typing import get_args

    from forerun.spec.base import Spec

    def inside(kind: Any) -> list[Any]:
        if isinstance(kind, type) and issubclass(kind, Spec):
            return [kind]
        return [t for part in get_args(kind) for t in inside(part)]

    return [t for item in cls.model_fields.values() for t in inside(item.annotation)]


def _type(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"(typing|forerun[\w.]*|collections\.abc)\.(?=\w)", "", text)


def _unit(cls: Any, name: str) -> str:
    from forerun import units

    dimension = None if name in cls.unitless else units.dimension_of(name)
    return f"{dimension}, e.g. `{units.example(dimension)}`" if dimension else ""


@page
def units_() -> str:
    from forerun import units

    rows = ((code(d), ", ".join(map(code, names))) for d, names in units.UNITS.items())
    return "# Units\n\n" + doc(units) + "\n\n" + table(("dimension", "units"), rows)


@page
def api() -> str:
    import forerun

    out = ["# Python", "", pre(inspect.getdoc(forerun) or "", "text")]
    for name in forerun.__all__:
        thing = getattr(forerun, name)
        if name.startswith("__"):
            continue
        out += ["", f"## forerun.{name} {{ #{name} }}", ""]
        if inspect.isfunction(thing):
            out += [pre(f"forerun.{name}{signature(thing)}", "python"), ""]
        out.append(doc(thing))
        if hasattr(thing, "model_fields"):
            out += ["", f"[Its fields](schema.md#{name.lower()})"]
        if inspect.isclass(thing):
            out += _fields(thing)
            for member, what in vars(thing).items():
                if member.startswith("_") or not (inspect.isfunction(what) or
                                                  isinstance(what, property)):  # fmt: skip
                    continue
                text = first(what.fget if isinstance(what, property) else what)
                call = "" if isinstance(what, property) else signature(what)
                out += ["", f"- {code('.' + member + call)} {text.replace('<', '&lt;')}"]
    return "\n".join(out)


# -- MkDocs ----------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Leaves out of the navigation the pages that are not written yet."""

    def kept(item: Any) -> Any:
        if isinstance(item, dict):
            found = {k: kept(v) for k, v in item.items()}
            return {k: v for k, v in found.items() if v} or None
        if isinstance(item, list):
            return [x for x in map(kept, item) if x]
        return item if (HERE / item).is_file() or item[10:-3] in PAGES else None

    config.nav = kept(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    for target, content in pages().items():
        place = Path(sys.argv[1]) / target
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
