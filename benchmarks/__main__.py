"""`make bench`: measure, print beside the peers' figures, write build/bench.json.

Peers were run on the same 2,000 requests on four shared cores in November 2026, each with its own
step times: Vidur 7.8 to 12.6 s, DynoSim 0.37 to 0.44 s, BLIS 24.8 to 25.6 s.  Ratios below are to
the fastest of a peer's runs.  Figures of the machine at hand, never part of a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np

from benchmarks import fleets, predict_ops, predict_serving, serving, startup
from benchmarks.vidur_same_work import event_loop_ms

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "vidur_run"
OUT = Path("build/bench.json")


def same_work() -> Iterator[tuple[str, float | None, str, str, float | None]]:
    """The event loop on the 2,000 requests that the peers were timed on."""
    value = event_loop_ms(SHARED, "cl34-2000") if SHARED.is_dir() else None
    yield "vidur_2000_ms", value, "ms", "DynoSim", 370.0
    yield "vidur_2000_ms_beside_vidur", value, "ms", "Vidur", 7800.0
    yield "vidur_2000_ms_beside_blis", value, "ms", "BLIS", 24800.0


def machine() -> str:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {model}; load {load}; Python {platform.python_version()}, "
        f"numpy {np.__version__}, numba {numba.__version__}"
    )


def _times(value: float, theirs: float, unit: str) -> float:
    """How many times better than a peer: a shorter time, a higher rate."""
    return value / theirs if "/" in unit else theirs / value


def main() -> None:
    """Print each figure as it is there; write them all at the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--billion", action="store_true", help="also the billion requests")
    asked = parser.parse_args()
    print(machine())
    rows = []
    for name, value, unit, peer, theirs in (
        *same_work(),
        *startup.figures(),
        *predict_ops.figures(),
        *predict_serving.figures(),
        *serving.figures(billion=asked.billion),
        *fleets.figures(SHARED.parent),
    ):
        row = {"name": name, "value": value, "unit": unit, "peer": peer, "peer_value": theirs}
        rows.append(row)
        shown = "not measured: no ../shared/data here" if value is None else f"{value:,.4g} {unit}"
        ratio = f"  {_times(value, theirs, unit):,.3g} x {peer}" if value and theirs else ""
        print(f"{name:<34}{shown:>16}{ratio}", flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
