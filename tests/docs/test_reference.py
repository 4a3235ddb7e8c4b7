"""Everything public has an entry in the reference, and the documentation builds without a network.

Names are compared with the generated pages, so that a device, policy, command, format or metric
without a page is a failing test and not a surprise to a reader.
"""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import ROOT

import forerun
from forerun import catalog


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def headings(text: str) -> set[str]:
    """Titles of the sections of a page, without their anchors; nothing inside code."""
    text = re.sub(r"(?ms)^```.*?^```", "", text)
    return {m[1].strip() for m in re.finditer(r"(?m)^##+ (.*?)(?: \{.*\})?$", text)}


def first_cells(text: str) -> set[str]:
    return {m[1] for m in re.finditer(r"(?m)^\| `([^`]+)` \|", text)}


def files(folder: str, pattern: str) -> set[str]:
    """Names read from the tree, not through the code that writes the reference."""
    found = (ROOT / "src" / "forerun" / folder).glob(pattern)
    return {path.stem for path in found if not path.stem.startswith("_")}


@pytest.mark.parametrize(
    ("page", "folder", "pattern"),
    [
        ("devices", "catalog/devices", "*.yaml"),
        ("links", "catalog/links", "*.yaml"),
        ("models", "catalog/models", "*.json"),
        ("techniques", "techniques", "*.py"),
        ("operators", "ops", "*.py"),
    ],
)
def test_every_file_of_a_kind_has_a_section(reference, page, folder, pattern):
    missing = files(folder, pattern) - headings(reference.pages()[f"reference/{page}.md"])
    assert not missing


def test_every_policy_has_a_section_with_its_source(reference):
    text = reference.pages()["reference/policies.md"]
    kinds = [p.name for p in (ROOT / "src/forerun/sim/policies").iterdir() if p.is_dir()]
    kinds.remove("__pycache__") if "__pycache__" in kinds else None
    assert len(kinds) >= 5
    for kind in kinds:
        for name in files(f"sim/policies/{kind}", "*.py"):
            assert f"{kind}/{name}" in headings(text)
            assert f"def {name}(" in text


def test_every_command_and_subcommand_has_its_help(reference):
    text = reference.pages()["reference/commands.md"]
    commands = {name.replace("_", "-") for name in files("cli", "*.py")}
    assert len(commands) > 8
    assert commands <= headings(text)
    assert all(f"Usage: forerun {name} " in text for name in commands)
    assert {"show device", "show policy", "trace synth", "trace convert"} <= headings(text)


def test_every_setting_is_listed(reference):
    from forerun.spec.settings import SETTINGS

    listed = first_cells(reference.pages()["reference/commands.md"])
    assert {"--" + s.name for s in SETTINGS} <= listed


def test_every_trace_format_has_a_section(reference):
    from forerun.spec.traces import formats

    assert len(formats()) >= 8
    assert set(formats()) <= headings(reference.pages()["reference/traces.md"])


def test_every_bundled_workload_is_listed(reference):
    listed = first_cells(reference.pages()["reference/workloads.md"])
    assert files("catalog/workloads", "*.yaml") == {name.replace("-", "_") for name in listed}


def test_every_metric_has_a_unit_and_a_definition_and_no_definition_is_left_over(reference):
    from forerun.metrics.answer import Metrics

    assert set(reference.definitions()) == set(reference.metric_units())
    assert set(reference.metric_units()) == first_cells(reference.pages()["reference/metrics.md"])
    said = {name for name, kind in Metrics.__annotations__.items() if "Figure" in str(kind)}
    assert said <= set(reference.metric_units())


def test_every_field_of_every_description_is_listed(reference):
    from forerun.spec.schema import KINDS, schema

    text = reference.pages()["reference/schema.md"]
    assert {cls.__name__ for cls in KINDS.values()} <= headings(text)
    for kind in KINDS:
        found = schema(kind)
        bodies = [found, *found.get("$defs", {}).values()]
        bodies += [option for body in bodies for option in body.get("anyOf", ())]
        for body in bodies:
            assert set(body.get("properties", {})) <= first_cells(text)


def test_everything_in_the_python_interface_has_an_entry_with_words(reference):
    text = reference.pages()["reference/api.md"]
    public = {f"forerun.{name}" for name in forerun.__all__ if not name.startswith("__")}
    assert public == headings(text)
    for name in public:
        assert getattr(forerun, name.removeprefix("forerun.")).__doc__, f"{name} has no docstring"


def test_every_error_and_exit_code_is_listed(reference):
    from forerun.errors import ForerunError

    text = reference.pages()["reference/errors.md"]

    def below(cls):
        return {cls, *(s for sub in cls.__subclasses__() for s in below(sub))}

    for error in below(ForerunError):
        if error.__module__ == "forerun.errors":
            assert re.search(rf"(?m)^\| `{error.__name__}` \| {error.exit_code} \| \w", text)


def test_every_unit_is_listed(reference):
    from forerun import units

    text = reference.pages()["reference/units.md"]
    assert set(units.UNITS) <= first_cells(text)


def test_a_device_without_an_entry_would_be_noticed(reference):
    text = reference.pages()["reference/devices.md"]
    some = catalog.devices()[3]
    without = re.sub(rf"(?m)^## {re.escape(some)} .*$", "", text)
    assert some in headings(text)
    assert some not in headings(without)


class _Addresses(HTMLParser):
    """What a page loads when it is opened (links a reader may follow are not loaded)."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.loads.append(given.get("src") or "")
        elif tag == "link":
            self.loads.append(given.get("href") or "")


def test_the_documentation_builds_strictly_and_loads_nothing_from_the_network(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'forerun[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 20
    for path in built:
        page = _Addresses()
        page.feed(path.read_text(encoding="utf-8"))
        assert not [a for a in page.loads if re.match(r"(https?:)?//", a)], path.name
    for path in tmp_path.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), path
