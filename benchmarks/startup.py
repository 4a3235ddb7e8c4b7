"""Start-up: whole processes, as a user starts them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

COMMANDS = {
    "help_s": "--help",
    "fit_s": "fit llama-3.1-8b --gpu l4",
    "predict_s": "predict llama-3.1-8b --gpu h100 --isl 1000 --osl 200 --rate 4/s",
    "simulate_10k_s": "simulate llama-3.1-8b --fleet h100:4 --trace chat --n-requests 10000",
}


def process_s(arguments: str, **env: str) -> float:
    """Wall time of one `forerun` process.  Raises CalledProcessError when it fails."""
    command = [str(Path(sys.executable).parent / "forerun"), *arguments.split()]
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, env={**os.environ, **env})
    return time.perf_counter() - start


def figures() -> Iterator[tuple[str, float, str, str, float | None]]:
    """(name, value, unit, peer, the peer's value) of each figure; medians of five warm runs."""
    for name, arguments in COMMANDS.items():
        process_s(arguments)
        yield name, statistics.median(process_s(arguments) for _ in range(5)), "s", "", None
    with tempfile.TemporaryDirectory() as cold:
        first = process_s(COMMANDS["simulate_10k_s"], FORERUN_CACHE_DIR=cold)
        warm = process_s(COMMANDS["simulate_10k_s"], FORERUN_CACHE_DIR=cold)
    yield "first_compile_s", first - warm, "s", "", None
