"""`Table`: measured operators with their seconds, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forerun.cost.rows import Rows
from forerun.errors import MissingDependency, SpecError


@dataclass(frozen=True, eq=False)
class Table:
    """Rows measured by one party with one tool."""

    rows: Rows
    time_s: np.ndarray  # float64 [N]
    name: str  # "aiconfigurator_ops/h100_sxm/vllm-0.24.0/gemm"
    origin: str  # who measured, where it was published
    licence: str
    n_dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows


def frame_of(path: Path) -> Any:
    """A polars frame of a CSV (gzip too) or Parquet file.

    Raises MissingDependency without polars, SpecError for a file that cannot be read.
    """
    try:
        import polars
    except ImportError:
        raise MissingDependency.one(
            str(path), "tables are read with polars", "pip install 'forerun[tables]'"
        ) from None
    try:
        if path.suffix == ".parquet":
            return polars.read_parquet(path)
        return polars.read_csv(path, infer_schema_length=10_000)
    except Exception as error:  # polars' own exceptions have no common base that is public
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError.one(str(path), f"cannot be read: {first}", "fetch it again") from None


def needed(frame: Any, columns: tuple[str, ...], path: Path) -> None:
    """Raises SpecError that names every column a file lacks."""
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        have = ", ".join(frame.columns[:12])
        what = f"lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        raise SpecError.one(str(path), what, f"it has {have}")


def numbers(frame: Any, name: str) -> np.ndarray:
    """A column as float64 [N], NaN where it is empty."""
    return frame[name].cast(float, strict=False).fill_null(float("nan")).to_numpy().astype(float)


def texts(frame: Any, name: str) -> np.ndarray:
    """A column as str objects [N], "" where it is empty."""
    return np.array([str(v) if v is not None else "" for v in frame[name].to_list()], dtype=object)


def mapped(values: np.ndarray, known: Mapping[str, str], where: str) -> np.ndarray:
    """Each text by its meaning.  Raises SpecError for texts that have none, all at once."""
    strange = sorted({str(v) for v in values} - set(known))
    if strange:
        raise SpecError.one(where, f"{', '.join(strange)} not known", f"one of {', '.join(known)}")
    return np.array([known[str(v)] for v in values], dtype=object)
