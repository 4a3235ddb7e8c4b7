"""Logs that must not move unless somebody means them to.

A digest covers every row of a log.  When a change of semantics is meant, run this file as a program
(`python tests/golden/test_golden_logs.py`) and say in the changelog why the numbers moved.  The
cases of every mechanism are those of `tests/laws/plain_python.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "laws"))

from plain_python import CASES, ROUTES, digest  # noqa: E402
from serving import served, simulate, table, workload  # noqa: E402

from forerun.spec.deployment import Policy  # noqa: E402

GOLDEN, MECHANISMS = HERE / "logs.json", HERE / "mechanisms.json"
ROUNDED = ("answers", "learns")  # cosines: the last bit of a float is the machine's


def digests() -> dict[str, str]:
    out = {}
    for engine in CASES:
        for route in ROUTES:
            pool = served(table(), replicas=3, n_blocks=24, max_num_batched_tokens=64, **engine)
            for name, concurrency in (("open", None), ("closed", 5)):
                log = simulate(
                    workload(11, 120, ties=True),
                    pool,
                    route=Policy(name=route),
                    seed=5,
                    concurrency=concurrency,
                )
                out[f"{engine['batch']} {route} {name}"] = digest(log)
    return out


def test_logs_are_those_that_were_agreed():
    assert digests() == json.loads(GOLDEN.read_text())


def mechanisms() -> list[str]:
    """The name of each case of every mechanism, and a digest of all that it tells."""
    laws = HERE.parent / "laws"
    paths = [str(laws), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(laws / "plain_python.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stdout.splitlines() if not line.startswith(ROUNDED)]
    return [
        f"{' '.join(line.split()[:3])} {hashlib.sha256(line.encode()).hexdigest()[:16]}"
        for line in told
    ]


def test_every_mechanism_writes_the_log_that_was_agreed():
    assert mechanisms() == json.loads(MECHANISMS.read_text())


if __name__ == "__main__":
    for path, told in ((GOLDEN, digests()), (MECHANISMS, mechanisms())):
        path.write_text(json.dumps(told, indent=1) + "\n")
