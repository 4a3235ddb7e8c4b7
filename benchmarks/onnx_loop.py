"""The closed loop on this processor: operators measured, a transformer predicted, run, compared.

    python -m benchmarks.onnx_loop [--threads N] [--minutes M]

Prints every model and every operator, writes build/onnx_loop.json, and exits 1 when a median error
on shapes that were not measured is above CLAIM.  Accuracy of the machine at hand, and of whoever
else uses it: never part of a test.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from forerun.measure.threads import pin

#: what is claimed of the median error, for nodes and for whole models
CLAIM = 0.10
OUT = Path("build/onnx_loop.json")


def main() -> int:
    """Measure, predict, run, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_loop", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=4.0)
    asked = parser.parse_args()
    pin(asked.threads)  # before anything imports numpy

    from forerun.calibrate.onnx_loop import errors, loop
    from forerun.measure.backends import ready
    from forerun.measure.passes import Passes, passes_path
    from forerun.measure.tables import read_tables
    from forerun.measure.take import take

    OUT.parent.mkdir(exist_ok=True)
    table = OUT.with_suffix(".csv")
    passes_path(table).unlink(missing_ok=True)
    bench = ready("onnxruntime_cpu", asked.threads)
    taken = take(
        bench, Passes.of(table), table, threads=asked.threads, minutes=asked.minutes, say=print
    )
    (read,) = read_tables(table)
    found = loop(
        read, device=taken.device.name, runtime=taken.runtime, threads=asked.threads,
        start_s=bench.start_s, pace=taken.pace, n_noisy=taken.noisy,
    )  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f}; {taken.noisy} of {taken.points} points noisy")
    for row in (found.HEAD, *found.rows()):
        print("  ".join(cell.ljust(34 if i == 0 else 10) for i, cell in enumerate(row)))
    for op, lines in found.by_op().items():
        median, p90 = errors(lines)
        print(f"{op:<34}{len(lines):>3} shapes  median {median:.1%}  p90 {p90:.1%}")
    print("\n".join(found.words()))
    OUT.write_text(json.dumps(found.summary(), indent=1) + "\n")
    print(f"written to {OUT}")
    return int(max(errors(found.models)[0], errors(found.nodes)[0]) > CLAIM)


if __name__ == "__main__":
    sys.exit(main())
