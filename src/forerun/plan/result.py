"""`Plan`: ranked deployments with their evidence, and why the rest are not among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from forerun.plan.evaluate import Point
from forerun.plan.lower import Lower
from forerun.plan.space import Candidate
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment

Objective = Literal["cost", "energy", "carbon", "latency"]
OBJECTIVES: tuple[Objective, ...] = ("cost", "energy", "carbon", "latency")


@dataclass(frozen=True)
class Choice:
    """A layout with the replicas it takes, and what they do under the case's traffic.

    Two verdicts: the SLO is met at the cost model's estimate (else it would not be here), and
    `safe` when it is also met with every step as slow as the pessimistic end of the 80 % interval.
    """

    candidate: Candidate
    point: Point
    safe: bool
    safe_replicas: int | None  # the least that are safe; None when the fleet has too few
    attainment_pessimistic: float
    ttft_p99_band_s: tuple[float | None, float | None]  # simulated at both ends of the interval
    tpot_p99_band_s: tuple[float | None, float | None]
    usd_per_hour: float | None
    safe_usd_per_hour: float | None
    usd_per_million_output_tokens: float | None
    gco2e_per_hour: float | None
    capacity_per_s: float | None = None  # highest rate that still meets the SLO
    capacity_is_least: bool = False  # the search for it ended before the SLO broke

    @property
    def replicas(self) -> int:
        return self.point.replicas

    @property
    def n_devices(self) -> int:
        return self.candidate.n_devices(self.replicas)

    @property
    def deployment(self) -> Deployment:
        return self.candidate.deployment(self.replicas)

    def row(self) -> dict[str, Any]:
        """Flat plain values, for tables."""
        p, pool = self.point, self.candidate.pool
        sizes = {k: getattr(pool, k) for k in ("tp", "pp", "dp", "ep", "cp", "dtype")}
        ttft, tpot = self.ttft_p99_band_s, self.tpot_p99_band_s
        return {
            "device": self.candidate.device, **sizes, "replicas": self.replicas,
            "n_devices": self.n_devices, "usd_per_hour": self.usd_per_hour,
            "usd_per_million_output_tokens": self.usd_per_million_output_tokens,
            "power_w": p.power_w, "energy_j_per_output_token": p.energy_j_per_output_token,
            "gco2e_per_hour": self.gco2e_per_hour, "attainment": p.attainment,
            "attainment_low": p.attainment_low, "attainment_high": p.attainment_high,
            "goodput_per_s": p.goodput_per_s, "capacity_per_s": self.capacity_per_s,
            "capacity_is_least": self.capacity_is_least,
            "ttft_p99_s": p.ttft_p99_s, "ttft_p99_low_s": ttft[0], "ttft_p99_high_s": ttft[1],
            "tpot_p99_s": p.tpot_p99_s, "tpot_p99_low_s": tpot[0], "tpot_p99_high_s": tpot[1],
            "e2el_p99_s": p.e2el_p99_s, "safe": self.safe,
            "attainment_pessimistic": self.attainment_pessimistic,
            "safe_replicas": self.safe_replicas, "safe_usd_per_hour": self.safe_usd_per_hour,
            "busy": p.busy, "kv_peak": p.kv_peak, "compute": p.compute, "memory": p.memory,
        }  # fmt: skip


@dataclass(frozen=True)
class Left:
    """A candidate that is not in the ranking, and why."""

    candidate: str
    reason: str
    sentence: str


@dataclass(frozen=True)
class Plan:
    """The answer to a case: which deployments meet its SLO, cheapest (or greenest, ...) first.

    `explanation` says what binds the first, what separates it from the second and what one more
    replica buys; where nothing meets the SLO, what binds and the smallest changes that help.
    """

    case: Case
    objective: Objective
    choices: tuple[Choice, ...]
    left_out: tuple[Left, ...]
    lower: tuple[Lower, ...]
    lower_bound: Lower | None
    explanation: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_feasible(self) -> bool:
        return bool(self.choices)

    @property
    def best(self) -> Choice | None:
        return self.choices[0] if self.choices else None

    @property
    def best_safe(self) -> Choice | None:
        """The choice that is cheapest with as many replicas as hold at the pessimistic end too."""
        known = [c for c in self.choices if c.safe_usd_per_hour is not None]
        if known:
            return min(known, key=lambda c: c.safe_usd_per_hour or 0.0)
        return next((c for c in self.choices if c.safe), None)

    @property
    def gap(self) -> float | None:
        """What the first choice costs over the lower bound: dollars where known, else devices."""
        if self.best is None or self.lower_bound is None:
            return None
        if self.best.usd_per_hour is not None and self.lower_bound.usd_per_hour:
            return self.best.usd_per_hour / self.lower_bound.usd_per_hour
        return self.best.n_devices / self.lower_bound.devices

    @property
    def answered(self) -> Case:
        """The case with the first choice as its deployment, ready for `simulate`."""
        if self.best is None:
            return self.case
        return self.case.model_copy(update={"deployment": self.best.deployment})

    def to_dict(self) -> dict[str, Any]:
        """The whole answer as plain values."""
        return {
            "feasible": self.is_feasible,
            "objective": self.objective,
            "choices": [
                {**c.row(), "deployment": c.deployment.model_dump(mode="json")}
                for c in self.choices
            ],
            "lower_bound": asdict(self.lower_bound) if self.lower_bound else None,
            "lower_bounds": [asdict(one) for one in self.lower],
            "gap": self.gap,
            "explanation": list(self.explanation),
            "remedies": list(self.remedies),
            "left_out": [asdict(one) for one in self.left_out],
            "provenance": dict(self.provenance),
            "case": self.case.model_dump(mode="json"),
        }
