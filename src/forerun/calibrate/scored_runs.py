"""Runs predicted by profiles that did not see them: how far off, and what interval follows.

An interval holds 80 % of the errors of a profile's runs that were not used; of kinds of runs that
it has few of, those of all profiles.  It is scored with what is left when the errors of a run's own
configuration are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forerun.calibrate.intervals import HELD
from forerun.cost.engine_profile import FIGURES, SPLIT, UNKNOWN, EngineProfile, both
from forerun.errors import ForerunError
from forerun.measure.runs import Runs, joined
from forerun.serving.answer import answer
from forerun.serving.question import question

FEW = 10  # runs below which no interval is stated ...
ENOUGH = 30  # ... and from which on a profile's own are enough for one
#: columns that tell runs of one configuration apart; a worker's batch is its clients
LOADS = ("row_id", "concurrency", "rate_per_s", "n_requests", "decode_batch")
#: the interval of a profile that is never off
EXACT = {prefix + figure: (1.0, 1.0) for prefix in ("", SPLIT) for figure in FIGURES}
#: what is measured of a run
MEASURED = ("ttft_s", "tpot_s")


@dataclass(frozen=True, eq=False)
class Scored:
    """Runs with predictions of a profile that was not fitted to them; NaN where refused."""

    runs: Runs
    ttft_s: np.ndarray  # float64 [N]
    tpot_s: np.ndarray
    low: np.ndarray  # float64 [2, N], of both
    high: np.ndarray
    refused: np.ndarray  # str [N]

    @property
    def answered(self) -> np.ndarray:
        return self.refused == ""

    def take(self, at: np.ndarray) -> Scored:
        """Some of the runs: indices or a mask."""
        return Scored(
            self.runs.take(at), self.ttft_s[at], self.tpot_s[at], self.low[:, at],
            self.high[:, at], self.refused[at],
        )  # fmt: skip

    def off(self, figure: str, of: np.ndarray) -> np.ndarray:
        """log(measured / predicted) of a latency of some runs."""
        return np.log(getattr(self.runs, figure)[of] / getattr(self, figure)[of])


def score(runs: Runs, known: EngineProfile | None = None) -> Scored:
    """Every run predicted, by one profile or by those that ship."""
    got = np.full((2, 3, runs.n), np.nan)
    refused = np.full(runs.n, "", dtype=object)
    for i in range(runs.n):
        try:
            a = answer(question(runs.row(i), known), energy=False)
        except ForerunError as error:
            refused[i] = str(error.problems[0])
            continue
        for j, name in enumerate(MEASURED):
            got[j, :, i] = a.seconds[name], a.low[name], a.high[name]
    return Scored(runs, got[0, 0], got[1, 0], got[:, 1], got[:, 2], refused)


def together(parts: Sequence[Scored]) -> Scored:
    """Runs of several engines as one."""
    runs = joined([p.runs for p in parts])
    return Scored(
        runs,
        ttft_s=np.concatenate([p.ttft_s for p in parts]),
        tpot_s=np.concatenate([p.tpot_s for p in parts]),
        low=np.concatenate([p.low for p in parts], axis=1),
        high=np.concatenate([p.high for p in parts], axis=1),
        refused=np.concatenate([p.refused for p in parts]),
    )


def spreads(scored: Scored, own: np.ndarray) -> dict[str, tuple[float, float]]:
    """Factors that hold 80 % of the runs, by figure; of pools apart with SPLIT.

    own : bool [N], runs of the profile in question.
    """
    out = {}
    for prefix, kind in _kinds(scored):
        for name in MEASURED:
            of = kind & own if np.count_nonzero(kind & own) >= ENOUGH else kind
            if np.count_nonzero(of) >= FEW:
                low, high = np.exp(_ends(scored.off(name, of)))
                out[prefix + name] = (round(float(low), 3), round(float(high), 3))
        if prefix + "tpot_s" in out:
            out[prefix + "e2el_s"] = out[prefix + "tpot_s"]
    return out


def errors(scored: Scored) -> dict[str, float]:
    """Median and p90 of |predicted / measured - 1|, by figure; of pools apart with SPLIT."""
    out = {}
    for prefix, kind in _kinds(scored):
        for name in MEASURED:
            if np.count_nonzero(kind) >= FEW:
                ape = np.abs(np.expm1(-scored.off(name, kind)))
                out[f"{prefix}{name} median"] = round(float(np.median(ape)), 3)
                out[f"{prefix}{name} p90"] = round(float(np.quantile(ape, 0.9)), 3)
    return out


def bounded(scored: Scored, profile_of: np.ndarray) -> Scored:
    """With the intervals that would ship had nobody run a run's configuration.

    scored : by profiles with EXACT.  profile_of : int [N], which profile each run is of.
    """
    names = configurations(scored.runs)
    apart = scored.runs.table.text("mode") == "disagg"
    low, high = np.full_like(scored.low, np.nan), np.full_like(scored.high, np.nan)
    for name, of in sorted(set(zip(names.tolist(), profile_of.tolist(), strict=True))):
        mine = (names == name) & (profile_of == of)
        known = spreads(scored.take(~mine), profile_of[~mine] == of)
        for i in np.flatnonzero(mine & scored.answered):
            for j, figure in enumerate(MEASURED):
                said = getattr(scored, figure)[i]
                own = scored.low[j, i] / said, scored.high[j, i] / said
                off = known.get((SPLIT if apart[i] else "") + figure, UNKNOWN)
                low[j, i], high[j, i] = (said * factor for factor in both(off, own))
    return replace(scored, low=low, high=high)


def configurations(runs: Runs) -> np.ndarray:
    """Each run's model, layout and lengths, str [N]; the same under different loads."""
    names = [n for n in runs.table.names if n not in LOADS]
    return np.array(["|".join(runs.table.cells[n][i] for n in names) for i in range(runs.n)])


def _kinds(scored: Scored) -> list[tuple[str, np.ndarray]]:
    """("", runs of one pool) and (SPLIT, those of pools apart): bool [N], that were answered and
    have no note."""
    use = scored.answered & (scored.runs.note == "")
    apart = scored.runs.table.text("mode") == "disagg"
    return [("", use & ~apart), (SPLIT, use & apart)]


def _ends(off: np.ndarray) -> tuple[float, float]:
    """Between which one more like these [N >= FEW] is in 8 of 10 cases: as many of N + 1 are
    beyond either end (split conformal prediction)."""
    beyond = int((len(off) + 1) * (1 - HELD) / 2 + 1e-9)
    ordered = np.sort(off)
    return float(ordered[beyond - 1]), float(ordered[-beyond])
