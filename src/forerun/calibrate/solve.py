"""Coefficients of a family's physics from measured rows, and trees on what they leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from forerun.calibrate.data import Data, thinned
from forerun.cost import operators
from forerun.cost.calibration import Calibration
from forerun.cost.chosen import Chosen, starting
from forerun.cost.trees import Trees, trees_of_booster
from forerun.errors import SpecError

#: rows of each that coefficients are solved on: they are few, and the physics is slow
SOLVED_ROWS = 1_500
#: weight of a coefficient's starting value: this many rows that agree with it
PRIOR_ROWS = 2.0

#: learning on one device: shapes are known, so trees may be fine
OWN = dict(num_leaves=63, learning_rate=0.08, min_data_in_leaf=8, lambda_l2=1.0, n_trees=400)
#: learning across devices: coarse, so that a new device is not taken for one of the known
GENERAL = dict(num_leaves=15, learning_rate=0.05, min_data_in_leaf=200, lambda_l2=10.0, n_trees=150)
#: settings of LightGBM that are not about accuracy: same rows, same trees.  One thread: several
#: wait for each other at every leaf, and beside other processes that takes four times the work
FIXED = dict(
    objective="l1", max_bin=254, verbose=-1, num_threads=1, deterministic=True,
    force_row_wise=True, seed=0, feature_pre_filter=False,
)  # fmt: skip


def predicted(data: Data, own: Calibration, general: Calibration | None) -> np.ndarray:
    """Seconds of rows of one device and runtime by a calibration of it; keys it lacks get the
    general answer."""
    out = np.empty(data.x.n)
    keys = operators.keys_of(data.x, data.module)
    for key in set(keys):
        at = np.flatnonzero(keys == key)
        part, known = data.take(at), own.closest_key(key)
        chosen = Chosen(
            data.module, own if known is not None else None, known or key, general, False, ""
        )
        x = chosen.rows(part.x)
        out[at] = chosen.seconds(x, part.s)
    return out


def across_devices(data: Data, general: Calibration) -> np.ndarray:
    """Seconds of rows as if their devices were known by their data sheets alone."""
    chosen = Chosen(data.module, None, "", general, False, "")
    return chosen.seconds(data.x, data.s)


# ---------------------------------------------------------------------------- coefficients


def fit_coefs(part: Data) -> tuple[tuple[str, ...], np.ndarray]:
    """(keys, coefficients float64 [keys, names]) of one device and runtime, most rows first."""
    keys = operators.keys_of(part.x, part.module)
    found, counts = np.unique(keys.astype(str), return_counts=True)
    order = np.lexsort((found, -counts))
    rows = []
    for key in found[order]:
        mine = part.take(np.flatnonzero(keys == key))
        start = starting(mine.x, mine.s, mine.module)
        prior = {name: float(np.median(value)) for name, value in start.items()}
        rows.append(_solve(mine.take(thinned(mine, most=SOLVED_ROWS)), prior))
    return tuple(found[order]), np.array(rows).reshape(len(found), len(part.module.COEFS))


def _solve(part: Data, prior: Mapping[str, float]) -> np.ndarray:
    """Coefficients that bring the physics closest, float64 [names].

    min sum soft_l1(log(physics / measured)) + PRIOR_ROWS * sum (0.3 log(c / prior))**2
    """
    from scipy.optimize import least_squares

    module = part.module
    names = [c.name for c in module.COEFS]
    low, high = (np.log([getattr(c, end) for c in module.COEFS]) for end in ("low", "high"))
    first = np.clip(np.log([prior[n] for n in names]), low + 1e-6, high - 1e-6)
    target = np.log(part.time_s)
    pull = np.sqrt(PRIOR_ROWS) * 0.3

    def off(z: np.ndarray) -> np.ndarray:
        c: dict[str, Any] = dict(zip(names, np.exp(z), strict=True))
        left = np.log(module.physics(part.x, part.s, c)) - target
        return np.concatenate([left, pull * (z - first)])

    solved = least_squares(off, first, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=30)
    return np.exp(solved.x)


# ---------------------------------------------------------------------------- residuals


def learn(
    features: Mapping[str, np.ndarray], left: np.ndarray, *, settings: Mapping[str, Any],
    weights: np.ndarray | None = None,
) -> Trees | None:  # fmt: skip
    """Trees on what the physics leaves, log(measured / physics).

    Raises SpecError for a feature that is not finite.
    """
    import lightgbm

    columns = {name: np.asarray(value, dtype=np.float32) for name, value in features.items()}
    bad = [name for name, value in columns.items() if not np.isfinite(value).all()]
    if bad:
        raise SpecError.one(bad[0], "is not finite in some rows", "mend the family's features")
    if not columns:
        return None
    matrix = np.stack(list(columns.values()), axis=1)
    own = {k: v for k, v in settings.items() if k != "n_trees"}
    data = lightgbm.Dataset(matrix, left, weight=weights, feature_name=list(columns))
    # a copy of it as text is of no use here
    booster = lightgbm.train(
        {**FIXED, **own}, data, settings["n_trees"], keep_training_booster=True
    )
    return trees_of_booster(booster)
