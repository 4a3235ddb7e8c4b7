"""Small traces, and the names of real ones."""

from pathlib import Path

import numpy as np
import pytest

from forerun.errors import TraceError
from forerun.spec import traces
from forerun.spec.requests import Requests

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE_ROWS = [
    "2023-11-16 18:17:03.9799600,4808,10",
    "2023-11-16 18:17:04.0319600,3180,8",
    "2023-11-16 18:17:05.0000001,110,27",
]
CONV = "azure_llm_2023/conv.csv.gz"
CODE = "azure_llm_2023/code.csv.gz"
MOONCAKE = "mooncake_fast25/conversation_trace.jsonl.gz"


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def csv(path: Path, *rows: str, header: str = "arrival_s,isl,osl") -> Path:
    return put(path, "\n".join([header, *rows]) + "\n")


def refused(path: Path, **options) -> str:
    with pytest.raises(TraceError) as caught:
        traces.read(path, **options)
    return str(caught.value)


def some(n: int = 50, seed: int = 0, **columns) -> Requests:
    """Requests whose times stand on the coarsest grid that a format has (1 ms)."""
    rng = np.random.default_rng(seed)
    time_ms = np.sort(rng.integers(0, 60_000, n))
    arrival = (time_ms - time_ms[0]) / 1e3
    isl, osl = rng.integers(1, 5000, n), rng.integers(1, 900, n)
    return Requests(arrival_s=arrival, isl=isl, osl=osl, **columns)
