"""Logs that must not move unless somebody means them to.

A digest covers every row of a log.  When a change of semantics is meant, run this file as a program
(`python tests/golden/test_golden_logs.py`) and say in the changelog why the numbers moved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "laws"))

from plain_python import CASES, ROUTES, digest  # noqa: E402
from serving import served, simulate, table, workload  # noqa: E402

from forerun.spec.deployment import Policy  # noqa: E402

GOLDEN = HERE / "logs.json"


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


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(digests(), indent=1) + "\n")
