"""This machine's processor as a device: what the system says of it, and rates as measured.

No data sheet says what four cores of a shared server do.  The sheet of `forerun measure` is
therefore measured: the best rate that large products reached, the best rate of copies too large for
any cache, both with the number of threads that is stated.  It is kept among the user's own devices
and says that it is measured.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun import catalog, paths, processors
from forerun.errors import SpecError
from forerun.spec.device import Device

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LIMIT = Path("/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw")
#: drawn by a core under load where no limit can be read: estimate, stated in the sheet
CORE_W = 8.0
COPY_BYTES = 2**26  # of each thread's array: larger than any cache's share
COPY_S = 0.4


@dataclass(frozen=True)
class Machine:
    """What the system says."""

    host: str
    cpu: str
    cores: int  # that this process may use
    memory_bytes: float
    cache_bytes: float | None  # last level, None where the system does not say

    @property
    def words(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {platform.system()}"


def describe() -> Machine:
    """This machine."""
    host = re.sub(r"[^a-z0-9]+", "-", platform.node().lower()).strip("-") or "here"
    return Machine(host, _cpu(), processors.usable(), _memory_bytes(), last_cache_bytes())


def device_name(machine: Machine, threads: int) -> str:
    """What the processor with so many threads is called in tables: "cpu-<host>-<threads>t"."""
    return f"cpu-{machine.host}-{threads}t"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 2.0**33


def last_cache_bytes(folder: Path = _CACHES) -> float | None:
    """Bytes of the last-level cache, None where the system does not list it."""
    found = {}
    for entry in sorted(folder.glob("index*")):
        try:
            size = (entry / "size").read_text().strip()
            level = int((entry / "level").read_text())
        except (OSError, ValueError):
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if match:
            found[level] = int(match[1]) * 2.0 ** {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return found[max(found)] if found else None


def copy_bytes_per_s(threads: int, *, seconds: float = COPY_S) -> float:
    """Bytes read and written a second by copies of large arrays, the best of several."""
    pairs = [(np.ones(COPY_BYTES // 8), np.ones(COPY_BYTES // 8)) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < end:
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[0], pair[1]), pairs))
            best = max(best, 2.0 * COPY_BYTES * threads / (time.perf_counter() - start))
    return best


def sheet_of(
    machine: Machine, threads: int, flop_per_s: float, bytes_per_s: float, *, by: str
) -> Device:
    """The processor as a device, from rates that were measured; `by`: with what."""
    day = datetime.date.today()
    limit = _power_limit_w()
    by_threads = f"measured here with {threads} thread{'s' * (threads > 1)}"
    power = "the power limit that the system states" if limit else f"estimate: {CORE_W:g} W a core"
    return Device(
        name=device_name(machine, threads), vendor=machine.cpu, kind="cpu", year=day.year,
        peak_flop_per_s={"fp32": flop_per_s},
        hbm_bytes=machine.memory_bytes, hbm_bytes_per_s=bytes_per_s, memory="as measured",
        n_sm=threads, l2_bytes=machine.cache_bytes, tdp_w=limit or CORE_W * threads,
        sources={
            "": f"{machine.words}, as its system states it, {day.isoformat()}",
            "peak_flop_per_s": f"{by_threads}: the best rate of {by}",
            "hbm_bytes_per_s": f"{by_threads}: the best of large copies, "
            "bytes read and bytes written",
            "tdp_w": power,
            "year": "of the measurement",
        },
    )  # fmt: skip


def _power_limit_w() -> float | None:
    try:
        return float(_LIMIT.read_text()) * 1e-6 or None
    except (OSError, ValueError):
        return None


def known_sheet(name: str) -> Device | None:
    """The sheet that was measured before, None where there is none."""
    try:
        return catalog.device(name)
    except SpecError:
        return None


def keep(device: Device) -> Path:
    """Writes a sheet among the user's own devices, where the catalog finds it; returns the path."""
    from ruamel.yaml import YAML

    path = paths.data_dir() / "devices" / f"{device.name}.yaml"
    given = device.model_dump(exclude_none=True, exclude_defaults=True)
    units = {
        "hbm_bytes": "B", "hbm_bytes_per_s": "B/s", "l2_bytes": "B", "tdp_w": "W",
        "clock_hz": "Hz",
    }  # fmt: skip
    given |= {name: f"{given[name]:.6g} {unit}" for name, unit in units.items() if name in given}
    given["peak_flop_per_s"] = {
        name: f"{rate:.6g} flop/s" for name, rate in device.peak_flop_per_s.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(given, file)
        part.replace(path)
    except OSError as error:
        what = f"cannot be written: {(error.strerror or str(error)).lower()}"
        raise SpecError.one(str(path), what, "FORERUN_DATA_DIR=a folder of yours") from None
    catalog.device.cache_clear()
    return path
