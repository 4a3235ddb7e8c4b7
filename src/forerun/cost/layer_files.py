"""Files of a measured layer profile: kernels of one model, device and tensor-parallel degree.

The columns stand in `layer_profile`.  Files may be gzipped, columns that are not needed are left
alone, and repeated rows become their median.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forerun.errors import SpecError
from forerun.spec.columns import read_columns

US = 1e-6
SKEWED = 1.5  # longest over mean from which a skew measurement says something

Points = dict[str, tuple[np.ndarray, np.ndarray]]  # layer -> (count, seconds of one call)


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """Measured kernels of one model on one device at one tensor-parallel degree, in seconds."""

    folder: Path
    dense: Points
    per_sequence: Points
    attention: np.ndarray  # float64 [N, 5]: chunk, past, decoding, context, seconds
    experts: np.ndarray  # float64 [M, 3]: tokens, active experts, seconds; [0, 3] without
    skew: Mapping[str, tuple[np.ndarray, np.ndarray]]  # regime -> (n, alpha); empty without
    n_rows: int


def read(folder: str | Path) -> LayerProfile:
    """The profile in a folder.  Raises SpecError with what is missing or not a time."""
    folder = Path(folder)
    dense, per_sequence = (
        _points(folder, "dense", "tokens"),
        _points(folder, "per_sequence", "sequences"),
    )
    columns = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    attention = _numbers(folder, "attention", columns)
    attention[:, 4] *= US
    experts = np.zeros((0, 3))
    if _path(folder, "moe") is not None:
        experts = _numbers(folder, "moe", ("tokens", "activated_experts", "time_us"))
        experts[:, 2] *= US
    skew = _skew(folder) if _path(folder, "skew") is not None else {}
    n = sum(len(x) for x, _ in [*dense.values(), *per_sequence.values()])
    return LayerProfile(
        folder, dense, per_sequence, attention, experts, skew,
        n + len(attention) + len(experts),
    )  # fmt: skip


def _path(folder: Path, name: str) -> Path | None:
    return next((p for end in (".csv", ".csv.gz") if (p := folder / (name + end)).is_file()), None)


def _numbers(folder: Path, name: str, columns: tuple[str, ...]) -> np.ndarray:
    """Columns of a file as float64 [N, columns]; rows of other kernels of `layer` left out."""
    path = _path(folder, name)
    if path is None:
        fix = "give the folder of one tensor-parallel degree, such as .../bf16/tp1"
        raise SpecError.one(str(folder), f"has no {name}.csv", fix)
    table = read_columns(path)
    missing = [column for column in columns if column not in table.names]
    if missing:
        has = ", ".join(table.names)
        raise SpecError.one(str(path), f"has no column {', '.join(missing)}", f"it has {has}")
    values = np.stack([table.number(column)[0] for column in columns], axis=1)
    if "layer" in table.names and name == "attention":
        kinds = sorted(set(table.text("layer")) - {"", "attention"})
        if kinds:
            what = f"holds kernels that no formula here stands for: {', '.join(kinds)}"
            raise SpecError.one(str(path), what, "a profile of plain attention")
    if "decode_q_len" in table.names:
        values = values[np.nan_to_num(table.number("decode_q_len")[0], nan=1.0) == 1.0]
    wrong = ~np.isfinite(values).all(axis=1) | (values[:, -1] <= 0)
    if wrong.any():
        line = int(np.argmax(wrong)) + 2
        what = f"{int(wrong.sum())} rows hold no number or no time, the first in line {line}"
        raise SpecError.one(f"{path}:{line}", what, "leave those rows out")
    return values


def _points(folder: Path, name: str, count: str) -> Points:
    values = _numbers(folder, name, (count, "time_us"))
    path = _path(folder, name)
    assert path is not None
    layers = read_columns(path).text("layer")
    if set(layers) == {""}:
        raise SpecError.one(str(path), "has no column layer", "the kernel that each row is of")
    return {
        layer: median(values[layers == layer, 0], values[layers == layer, 1] * US)
        for layer in dict.fromkeys(layers)
    }


def median(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = np.unique(x)
    return points, np.array([np.median(y[x == p]) for p in points])


def _skew(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """alpha by number of requests for each regime: sum(t_skew - t_mean) / sum(t_max - t_mean)."""
    columns = ("n", "kv_big", "kv_mean", "t_mean_us", "t_max_us", "t_skew_us")
    path = _path(folder, "skew")
    assert path is not None
    rows = _numbers(folder, "skew", columns)
    regime = read_columns(path).text("regime")
    useful = (rows[:, 1] >= SKEWED * rows[:, 2]) & (rows[:, 4] > rows[:, 3])
    out = {}
    for name in ("pure", "mixed"):
        mine = rows[useful & (regime == name)]
        counts = np.unique(mine[:, 0])
        alpha = []
        for n in counts:
            _, _, _, mean, longest, skewed = mine[mine[:, 0] == n].T
            alpha.append(float(((skewed - mean) / mean).sum() / ((longest - mean) / mean).sum()))
        if len(counts):
            out[name] = counts, np.clip(np.array(alpha), 0.0, 1.0)
    return out
