"""What is here: cores, GPU, energy counters, packages; what is measured and what modelled."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click

from forerun import processors
from forerun.cli._options import Output, output_options

_RAPL = Path("/sys/class/powercap")
_PACKAGES = (  # distribution, extra that brings it ("" for the base), what it is for
    ("numpy", "", "arrays"),
    ("numba", "", "the compiled core"),
    ("pydantic", "", "descriptions"),
    ("polars", "tables", "Parquet and large traces"),
    ("vl-convert-python", "plots", "charts as PNG, SVG and offline HTML"),
)


@click.command()
@output_options()
def command(out: Output) -> None:
    """Say what is here, and what of an answer will be measured, calibrated or modelled.

    Nothing is changed and nothing is asked of the network.
    """
    from forerun.cli._output import Table, emit

    rows = [
        {"part": part, "found": found, "means": means}
        for part, found, means in (*_machine(), *_packages(), *_folders(), *_answers())
    ]
    table = Table(("part", "found", "means"), [tuple(row.values()) for row in rows])
    emit(out, command="doctor", text=table.text(), data={"rows": rows}, rows=rows)


def _machine() -> Iterator[tuple[str, str, str]]:
    from forerun.version import __version__

    yield "forerun", __version__, f"Python {platform.python_version()} on {platform.system()}"
    yield "cores", str(processors.usable()), f"{platform.machine()}; a simulation uses one"
    yield "memory", _memory(), "a million requests take about 0.2 GB"
    gpus = _gpus()
    means = "not used yet: nothing is measured on it" if gpus else "none is needed"
    yield "GPU", ", ".join(gpus) or "none", means
    yield "energy counters", *_rapl()
    jit = os.environ.get("FORERUN_JIT", "1") != "0"
    yield "compiled core", "on" if jit else "off (FORERUN_JIT=0)", "the same log either way"


def _memory() -> str:
    from forerun import units

    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return units.show(size, "bytes")


def _gpus() -> list[str]:
    """Names of the GPUs that nvidia-smi lists; empty when it is absent or fails."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _rapl() -> tuple[str, str]:
    counters = sorted(_RAPL.glob("intel-rapl:*/energy_uj"))
    if not counters:
        return "none", "energy is modelled"
    if not any(os.access(counter, os.R_OK) for counter in counters):
        return "not readable", f"energy is modelled; chmod +r {counters[0]} opens them"
    return f"{len(counters)} readable", "of this machine's processor; a fleet's energy is modelled"


def _packages() -> Iterator[tuple[str, str, str]]:
    for name, extra, use in _PACKAGES:
        try:
            yield name, importlib.metadata.version(name), use
        except importlib.metadata.PackageNotFoundError:
            repair = f"pip install 'forerun[{extra}]'" if extra else "pip install forerun"
            yield name, "missing", f"{use}: {repair}"


def _folders() -> Iterator[tuple[str, str, str]]:
    from forerun import paths

    for label, folder in (("cache", paths.cache_dir()), ("data", paths.data_dir())):
        parent = next(p for p in (folder, *folder.parents) if p.exists())
        state = "not made yet" if not folder.exists() else "there"
        if not os.access(parent, os.W_OK):
            state = "not writable"
        yield label, str(folder), state
    config = paths.user_config()
    yield "settings", str(config), "read" if config.is_file() else "absent, which is fine"


def _answers() -> Iterator[tuple[str, str, str]]:
    from forerun import catalog, paths
    from forerun.cost.calibration import store

    yield "catalog", f"{len(catalog.devices())} devices", f"{len(catalog.models())} models"
    tables = sorted((paths.data_dir() / "measurements").glob("*.csv"))
    here = ", ".join(table.name for table in tables) or "nothing"
    yield "measured here", here, "forerun measure times operators on this machine"
    fits = {p.name.split("--")[0] for place in store().folders for p in place.glob("*/*--*.npz")}
    yield "calibrated", f"{len(fits)} devices", "times fitted to measurements of them"
    yield "modelled", "everything else", "from data sheets: an interval stands beside each answer"
