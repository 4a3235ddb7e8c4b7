"""`reproduce`: a paper's claims, each measured and given a status with its reasons."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forerun.claims.found import Found, How, Point
from forerun.claims.schema import STATUSES, Claim, Paper, Status, load, measure
from forerun.errors import SpecError, nearest

#: share of a claim's band that must lie within its tolerance for it to count as reproduced
MOST_OF_BAND = 2 / 3


@dataclass(frozen=True)
class Result:
    """One claim, measured."""

    claim: Claim
    status: Status
    reasons: tuple[str, ...]  # why this status, in sentences
    found: Found | None  # None when nothing was run
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        claim, found = self.claim, self.found
        allowed = claim.tolerance * (abs(claim.value) if claim.relative else 1.0)
        return {
            "claim": claim.name, "says": claim.says, "where": claim.where,
            "measure": claim.measure, "technique": claim.technique.model_dump(mode="json"),
            "published": claim.value, "unit": claim.unit, "low": claim.value - allowed,
            "high": claim.value + allowed, "tolerance_why": claim.tolerance_why,
            "status": self.status, "reasons": list(self.reasons),
            "explanation": claim.explanation.strip(),
            "value": found.value if found else None,
            "parts": _points(found.parts if found else ()),
            "band": _points(found.band if found else ()),
            "ablation": None if found is None or found.ablation is None else {
                **_points((found.ablation,))[0], "at_most": found.ablation_limit,
                "holds": found.ablation_holds,
            },
            "notes": list(found.notes) if found else [],
            "table": [dict(zip(found.columns, row, strict=True)) for row in found.rows]
            if found else [],
            "seconds": round(self.seconds, 2),
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A paper with all its claims measured."""

    paper: Paper
    results: tuple[Result, ...]
    quick: bool
    seed: int

    def counts(self) -> dict[str, int]:
        """How many claims ended in each status."""
        return {s: sum(r.status == s for r in self.results) for s in STATUSES}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = self.paper.model_dump(mode="json", exclude={"claims"})
        return {
            **about, "quick": self.quick, "seed": self.seed, "counts": self.counts(),
            "claims": [result.to_dict() for result in self.results],
        }  # fmt: skip


def reproduce(
    paper: str | Path | Paper,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    data: Path | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure the claims of a paper (all, or those named in `only`).

    quick    : fewer requests and a shorter band; a status from it is a hint.
    data     : folder of published measurements; claims that need an absent file say so.
    progress : called with what is being run.
    Raises SpecError for a name that is not known.
    """
    found = paper if isinstance(paper, Paper) else load(paper)
    known = [claim.name for claim in found.claims]
    for name in only:
        if name not in known:
            where = f"claim {name!r}"
            raise SpecError.one(where, f"{found.paper} has no such claim", nearest(name, known))
    how = How(data=data, quick=quick, seed=seed)
    if progress is not None:
        how = replace(how, step=progress)
    chosen = [claim for claim in found.claims if not only or claim.name in only]
    return Report(found, tuple(check(claim, how) for claim in chosen), quick, seed)


def check(claim: Claim, how: How) -> Result:
    """Measure one claim and judge it."""
    if claim.not_here is not None:
        return Result(claim, "not-reproducible-here", (claim.not_here.strip(),), None)
    absent = [name for name in claim.needs_data if how.path(name) is None]
    if absent:
        reason = f"needs {', '.join(absent)}, published measurements that do not ship with Forerun"
        return Result(claim, "not-reproducible-here", (reason,), None)
    start = time.perf_counter()
    found = measure(claim.measure).measure(claim, how)
    status, reasons = judge(claim, found)
    return Result(claim, status, reasons, found, time.perf_counter() - start)


def judge(claim: Claim, found: Found) -> tuple[Status, tuple[str, ...]]:
    """The status of a measured claim and the reasons for it.

    reproduced      : the number, and most of the band, lie within the tolerance, every side
                      condition holds and the ablation removes the gain.
    ratio-only      : absolute numbers that are right up to one common factor, and only so.
    input-dependent : some of the number, its parts and its band lie within, the rest does not.
    not-reproduced  : nothing does, or the gain is there without the mechanism.
    not-reproducible-here : others had to stand in for published inputs; the number is for a look.
    """
    reasons = []
    if found.stand_ins:
        reasons.append(f"needs {', '.join(found.stand_ins)}; bundled ones stood in for a look")
    inside = claim.within(found.value)
    parts = [p for p in found.parts if claim.within(p.value)] if len(found.parts) > 1 else []
    band = [p for p in found.band if claim.within(p.value)]
    where = "within" if inside else "outside"
    shown = "undefined" if found.value is None else f"{found.value:.3g}"
    reasons.append(f"{shown} is {where} {_range(claim)}")
    if found.band:
        reasons.append(f"{len(band)} of {len(found.band)} points of the band are within it")
    reasons += found.broken
    if found.stand_ins:
        return "not-reproducible-here", tuple(reasons)
    if found.ablation_holds is False and found.ablation is not None:
        left = "undefined" if found.ablation.value is None else f"{found.ablation.value:.2f}"
        reasons.append(
            f"without the mechanism it is still {left}: the gain is not of the mechanism"
        )
        return "not-reproduced", tuple(reasons)
    if inside and not found.broken and len(band) >= MOST_OF_BAND * len(found.band):
        return "reproduced", tuple(reasons)
    if found.ratios_hold and not found.broken:
        return "ratio-only", tuple(reasons)
    judged_by_points = found.ablation is not None or bool(found.band)
    if (inside and found.broken) or (judged_by_points and (inside or parts or band)):
        if parts and not inside:
            reasons.append("within it: " + ", ".join(p.label for p in parts))
        return "input-dependent", tuple(reasons)
    return "not-reproduced", tuple(reasons)


def _range(claim: Claim) -> str:
    allowed = claim.tolerance * (abs(claim.value) if claim.relative else 1.0)
    low, high = claim.value - allowed, claim.value + allowed
    if claim.value == 0:
        return f"+-{allowed:.3g} {claim.unit}".rstrip()
    return f"{low:.3g} to {high:.3g} {claim.unit} (published: {claim.value:g})"


def _points(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [{"label": p.label, "value": p.value, "detail": p.detail} for p in points]
