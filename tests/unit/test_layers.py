"""Rooms import only rooms above them, and starting up imports nothing heavy."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numba", "polars", "pandas", "altair", "rich", "jinja2", "highspy", "pint")


def _contracts():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def _lint(config: Path) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, cwd=config.parent, check=False)


def test_every_room_imports_only_rooms_above_it():
    done = _lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_is_checked_at_all(tmp_path):
    """The same linter with two rooms swapped must object."""
    config = (ROOT / "pyproject.toml").read_text()
    swapped = config.replace(
        '"forerun.spec",\n  "forerun.units"', '"forerun.units",\n  "forerun.spec"'
    )
    assert swapped != config
    path = tmp_path / "pyproject.toml"
    path.write_text(swapped)
    done = _lint(path)
    assert done.returncode != 0
    assert "forerun.spec.base -> forerun.units" in done.stdout


def test_every_room_stands_in_the_contract():
    layers = {name for c in _contracts() if c["type"] == "layers" for name in c["layers"]}
    package = ROOT / "src" / "forerun"
    rooms = {f"forerun.{p.stem}" for p in package.iterdir() if p.suffix == ".py"}
    rooms |= {f"forerun.{p.name}" for p in package.iterdir() if (p / "__init__.py").is_file()}
    assert rooms - {"forerun.__init__"} == layers


def _imported_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module", ["spec.read", "spec.schema", "spec.traces", "catalog", "api", "cli"]
)
def test_importing_a_description_imports_nothing_heavy(module):
    assert not _imported_by(f"import forerun.{module}").intersection(HEAVY)


def test_help_imports_neither_pydantic_nor_numpy():
    statement = (
        "from forerun.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    )
    assert not _imported_by(statement).intersection((*HEAVY, "pydantic", "numpy", "ruamel"))
