"""`Bench`: one run of a load generator, and the requests that it sent, rebuilt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from forerun.errors import Problem, SpecError
from forerun.spec.requests import Requests
from forerun.spec.streams import stream

PERCENTILES = (50, 90, 95, 99)
MOST = 1e12  # of anything that is counted or timed here
SPREAD = 0.7  # deviation over mean of lengths that a file does not hold; chats have 0.6 to 1.2


@dataclass(frozen=True, eq=False)
class Bench:
    """What was sent, when, and what came back; N requests that succeeded, in the order sent.

    Arrays are None where a file holds only summaries; then `figures` is all there is.
    figures : SI, by name: ttft_s, tpot_s and e2el_s with _mean, _p50, ... ; output_tokens_per_s,
        requests_per_s, running, waiting.
    """

    file: Path
    tool: str
    n: int
    mean_isl: float
    mean_osl: float
    figures: Mapping[str, float]
    start_s: np.ndarray | None = None  # float64 [N], sent, from the first
    isl: np.ndarray | None = None  # int64 [N]
    osl: np.ndarray | None = None
    ttft_s: np.ndarray | None = None  # float64 [N], from sending
    e2el_s: np.ndarray | None = None
    rate_per_s: float | None = None  # None: as fast as the loop allows
    burstiness: float = 1.0  # 1 is Poisson
    concurrency: int | None = None
    model: str = ""  # as the file calls it
    engine: str = ""
    engine_version: str = ""
    date: str = ""  # ISO, as far as known
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def tpot_s(self) -> np.ndarray | None:
        """float64 [N]; NaN for answers of one token."""
        if self.e2el_s is None or self.ttft_s is None or self.osl is None:
            return None
        gaps = np.where(self.osl > 1, self.osl - 1, np.nan)
        return (self.e2el_s - self.ttft_s) / gaps

    @property
    def load(self) -> str:
        """How requests came, in a few words."""
        if self.concurrency and self.rate_per_s:
            return f"{self.rate_per_s:g} req/s, at most {self.concurrency} at once"
        if self.concurrency:
            return f"{self.concurrency} at once"
        return f"{self.rate_per_s:g} req/s" if self.rate_per_s else "all at once"


def check_run(bench: Bench) -> list[Problem]:
    """What no run can have, a sentence each: means below one token, rates that are no numbers."""
    least = {"mean prompt": (bench.mean_isl, 1.0), "mean answer": (bench.mean_osl, 1.0)}
    least |= {"requests": (bench.n, 1.0)}
    for name, value in (("rate", bench.rate_per_s), ("concurrency", bench.concurrency)):
        if value is not None:
            least[name] = value, 1e-9
    least |= {name: (value, 0.0) for name, value in bench.figures.items()}
    fix = "the file as it was saved, of a run that answered"
    return [
        Problem(str(bench.file), f"{name} of {value!r} cannot be", fix)
        for name, (value, low) in least.items()
        if not (_is_number(value) and low <= value <= MOST)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def summary(ttft_s: np.ndarray, tpot_s: np.ndarray, e2el_s: np.ndarray) -> dict[str, float]:
    """Mean and percentiles of each, by the names of `Bench.figures`."""
    out = {}
    for name, values in (("ttft_s", ttft_s), ("tpot_s", tpot_s), ("e2el_s", e2el_s)):
        known = values[np.isfinite(values)]
        if len(known):
            out[f"{name}_mean"] = float(known.mean())
            out |= {f"{name}_p{p}": float(np.percentile(known, p)) for p in PERCENTILES}
    return out


def of_requests(
    path: Path,
    tool: str,
    *,
    isl: ArrayLike,
    osl: ArrayLike,
    ttft_s: ArrayLike,
    e2el_s: ArrayLike,
    start_s: ArrayLike | None,
    figures: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    **about: Any,
) -> Bench:
    """A run of which every request is known; those that failed or hold no time are left out.

    Raises SpecError when none is left, or the columns differ in length.
    """
    columns = [np.asarray(c, dtype=float) for c in (isl, osl, ttft_s, e2el_s)]
    start = None if start_s is None else np.asarray(start_s, dtype=float)
    lengths = {len(c) for c in columns} | ({len(start)} if start is not None else set())
    if len(lengths) != 1:
        what = f"has columns of {', '.join(map(str, sorted(lengths)))} requests"
        raise SpecError.one(str(path), what, "save the result again")
    prompt, answer, ttft, e2el = columns
    good = np.isfinite(np.stack(columns)).all(axis=0)
    good &= (
        (prompt >= 1)
        & (answer >= 1)
        & (np.fmax(prompt, answer) <= MOST)
        & (ttft > 0)
        & (e2el >= ttft * (1 - 1e-9))
    )
    said = list(notes)
    if not good.any():
        raise SpecError.one(
            str(path), f"{len(good)} requests, and none succeeded", "a run that did"
        )
    if not good.all():
        said.append(f"{int((~good).sum())} of {len(good)} requests failed and are left out")
    order = np.flatnonzero(good)
    if start is not None:
        if not np.isfinite(start[good]).all():
            start = None
        else:
            order = order[np.argsort(start[order], kind="stable")]
            start = start[order] - start[order[0]]
    prompt, answer, ttft, e2el = (c[order] for c in (prompt, answer, ttft, e2el))
    tpot = (e2el - ttft) / np.where(answer > 1, answer - 1, np.nan)
    return Bench(
        file=path, tool=tool, n=len(order), mean_isl=float(prompt.mean()),
        mean_osl=float(answer.mean()), figures=summary(ttft, tpot, e2el) | dict(figures or {}),
        start_s=start, isl=prompt.astype(np.int64), osl=answer.astype(np.int64), ttft_s=ttft,
        e2el_s=e2el, notes=tuple(said), **about,
    )  # fmt: skip


def _lengths(mean: float, n: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """n lengths of a log-normal with this mean and deviation over mean, in a drawn order."""
    if not spread:
        return np.full(n, max(1, round(mean)), dtype=np.int64)
    width = np.sqrt(np.log1p(spread**2))
    values = np.exp(width * rng.standard_normal(n))
    return np.maximum(np.rint(values * mean / values.mean()), 1).astype(np.int64)


def rebuild(bench: Bench, *, seed: int = 0) -> tuple[Requests, tuple[str, ...]]:
    """The requests that the run sent, and what had to be assumed about them.

    A closed loop (a concurrency without a rate) keeps its order, and times follow from the answers;
    its requests meet the simulated engine as they met the real one.  Else the times in the file
    count, and without them gamma arrivals at its rate.
    """
    said = []
    n = bench.n
    isl, osl = bench.isl, bench.osl
    meta: dict[str, Any] = {"source": str(bench.file)}
    if isl is None or osl is None:
        equal = all(abs(mean - round(mean)) < 1e-6 for mean in (bench.mean_isl, bench.mean_osl))
        if equal:
            said.append("requests are taken to be of one length: the sums are whole multiples")
        else:
            meta["lengths"] = "drawn"
            said.append(f"lengths are drawn around their means with a spread of {SPREAD:g}: the "
                        "file has only sums")  # fmt: skip
        isl, osl = (
            _lengths(mean, n, 0.0 if equal else SPREAD, stream(seed, name))
            for mean, name in ((bench.mean_isl, "prompts"), (bench.mean_osl, "lengths"))
        )
    closed = bench.concurrency is not None and not bench.rate_per_s
    if closed:
        meta["concurrency"] = min(int(bench.concurrency or 1), n)
        arrival = np.zeros(n)
    elif bench.start_s is not None:
        arrival = bench.start_s
    elif bench.rate_per_s:
        shape = bench.burstiness if bench.burstiness > 0 else 1.0
        gaps = stream(seed, "arrivals").gamma(shape, 1 / (shape * bench.rate_per_s), n)
        arrival = np.concatenate([[0.0], np.cumsum(gaps[1:])])
        said.append("arrivals are drawn at the run's rate: the file has no times")
    else:
        arrival = np.zeros(n)
    if bench.concurrency is not None and bench.rate_per_s and bench.start_s is None:
        said.append(f"the limit of {bench.concurrency} requests at once is taken not to bind")
    return Requests(arrival, isl, osl, meta=meta), tuple(said)
