"""`Synth`: a trace as parameters small enough to share, and requests drawn from them.

Fitted are the joint distribution of lengths, the arrivals (rate by time, bursts, gaps) and, where
the trace shows them, shared prefixes and sessions.  Left out: how lengths follow one another in
time, and any dependence of lengths on the rate.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from forerun.errors import Problem, SpecError, TraceError
from forerun.spec.base import Spec
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces._arrivals import Arrivals, draw_arrivals, fit_arrivals
from forerun.spec.traces._lengths import LengthTable, draw_lengths, fit_lengths
from forerun.spec.traces._reuse import Reuse, draw_reuse, fit_reuse
from forerun.spec.traces.describe import describe

_CHECKED = (
    "rate_per_s", "interarrival_cv", "dispersion_1s", "dispersion_10s", "dispersion_60s",
    "peak_per_min", "isl_mean", "isl_p50", "isl_p90", "isl_p99", "osl_mean", "osl_p50", "osl_p90",
    "osl_p99", "prefix_hit_rate", "requests_per_session",
)  # fmt: skip


class Synth(Spec):
    """A workload that can be drawn at any length and rate."""

    name: str = "workload"
    source: str  # which trace it was fitted from, and whose that is
    licence: str = "unknown"  # of the trace
    n_fitted: int  # requests in that trace
    arrivals: Arrivals | None  # None: the trace had no times
    lengths: LengthTable
    reuse: Reuse | None = None
    errors: dict[str, float] = {}  # drawn (seed 0, same length) over the trace's own, minus 1
    note: str = ""

    @property
    def period_s(self) -> float:
        """How long the rate profile is; drawing on repeats it."""
        return len(self.arrivals.profile) * self.arrivals.bin_s if self.arrivals else 0.0

    def draw(
        self,
        n: int | None = None,
        *,
        duration_s: float | None = None,
        seed: int = 0,
        rate_scale: float = 1.0,
    ) -> Requests:
        """n requests, or those of a duration, or whichever ends first.

        rate_scale multiplies the rate at every moment (more users), clock and lengths unchanged.
        Without arrivals (n is needed) all come at 0.  Raises SpecError for what is missing or
        impossible.
        """
        self._check_draw(n, duration_s, rate_scale)
        meta: dict[str, Any] = {
            "source": self.source, "format": "synth", "n_rows": 0, "skipped": {}, "sorted": 0,
            "drawn": {"workload": self.name, "seed": seed, "rate_scale": rate_scale},
        }  # fmt: skip
        if self.arrivals is None:
            arrival = np.zeros(n or 0)
            meta["arrivals"] = "absent"
        else:
            rng = stream(seed, "arrivals")
            arrival = draw_arrivals(
                self.arrivals, rng, n=n, duration_s=duration_s, rate_scale=rate_scale
            )
        if not len(arrival):
            what = f"no request arrives within {duration_s:g} s"
            raise SpecError.one("duration_s", what, "a longer duration_s or a higher rate")
        return self._fill(arrival, seed, meta)

    def draw_at(self, arrival_s: np.ndarray, *, seed: int = 0) -> Requests:
        """Requests that arrive at given times; all at one moment is as good (a closed loop)."""
        meta = {"source": self.source, "format": "synth", "drawn": {"workload": self.name}}
        return self._fill(arrival_s, seed, meta)

    def _fill(self, arrival_s: np.ndarray, seed: int, meta: dict[str, Any]) -> Requests:
        n = len(arrival_s)
        isl, osl, which = draw_lengths(self.lengths, stream(seed, "lengths"), n)
        extra: dict[str, Any] = {}
        if self.reuse:
            clock = arrival_s
            if n > 1 and arrival_s[0] == arrival_s[-1]:
                # no time passes, yet later requests build on earlier ones: take the usual rate
                clock = np.arange(n) / (self.arrivals.rate_per_s if self.arrivals else 1.0)
            extra = draw_reuse(self.reuse, stream(seed, "reuse"), clock, isl, which)
        return Requests(arrival_s=arrival_s, isl=isl, osl=osl, meta=meta, **extra)

    def _check_draw(self, n: int | None, duration_s: float | None, rate_scale: float) -> None:
        problems = []
        if n is None and duration_s is None:
            what = "neither n nor duration_s says where to stop"
            problems.append(Problem("draw", what, "n=10_000"))
        if n is not None and n < 1:
            problems.append(Problem("n", f"{n} is not at least 1"))
        if duration_s is not None and not 0 < duration_s < math.inf:
            problems.append(Problem("duration_s", f"{duration_s:g} s is not above 0 and finite"))
        if not 0 < rate_scale < math.inf:
            problems.append(Problem("rate_scale", f"{rate_scale:g} is not above 0 and finite"))
        if self.arrivals is None and n is None:
            what = f"{self.name} was fitted from a trace without times"
            problems.append(Problem("duration_s", what, "say n instead"))
        if problems:
            raise SpecError(*problems)


def fit(
    requests: Requests,
    *,
    name: str = "workload",
    source: str = "",
    licence: str = "unknown",
    note: str = "",
) -> Synth:
    """The parameters of a trace (at least 2 requests); `errors` says how well a draw matches it."""
    if len(requests) < 2:
        raise TraceError.one(name, f"{len(requests)} request is too few to fit from")
    timed = requests.meta.get("arrivals") != "absent" and requests.duration_s > 0
    synth = Synth(
        name=name,
        source=source or str(requests.meta.get("source", "unknown")),
        licence=licence,
        n_fitted=len(requests),
        arrivals=fit_arrivals(requests) if timed else None,
        lengths=fit_lengths(requests.isl, requests.osl),
        reuse=fit_reuse(requests),
        note=note,
    )
    return synth.model_copy(update={"errors": compare(requests, synth)})


def compare(requests: Requests, synth: Synth, *, seed: int = 0) -> dict[str, float]:
    """Relative deviations of a draw of the trace's length from the trace, by figure."""
    n, duration_s = (None, requests.duration_s) if synth.arrivals else (len(requests), None)
    own, drawn = describe(requests), describe(synth.draw(n, duration_s=duration_s, seed=seed))
    errors = {}
    for key in _CHECKED:
        a, b = getattr(own, key), getattr(drawn, key)
        if a and b is not None and math.isfinite(a) and math.isfinite(b):
            errors[key] = round(b / a - 1, 3)
    return errors


def save(synth: Synth, path: str | Path) -> None:
    """Writes a Synth as YAML (a few kB), with units where there are any."""
    from io import StringIO

    from ruamel.yaml import YAML

    from forerun.spec.traces._source import write_text

    yaml = YAML()
    yaml.width = 98
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    yaml.dump(_plain(synth.model_dump(exclude_none=True)), out)
    write_text(path, out.getvalue())


def load(path: str | Path) -> Synth:
    """A Synth from YAML.  Raises SpecError naming everything that is wrong with the file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise SpecError.one(str(path), f"cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise SpecError.one(str(path), "does not hold a workload's parameters")
    data.setdefault("arrivals", None)
    try:
        return Synth.model_validate(data, context={"file": True})
    except ValidationError as error:
        problems = [
            Problem(f"{path} {'.'.join(map(str, e['loc']))}", e["msg"]) for e in error.errors()
        ]
        raise SpecError(*problems) from None


def _plain(value: Any, key: str = "") -> Any:
    """The same as YAML writes it best: lists of numbers on one line, quantities with units."""
    from ruamel.yaml.comments import CommentedSeq

    if isinstance(value, dict):
        # figures under `errors` are ratios, whatever their names say
        return {k: _plain(v, "" if key == "errors" else k) for k, v in value.items() if v != ""}
    if isinstance(value, (list, tuple)):
        items = CommentedSeq([_plain(item, key) for item in value])
        if not any(isinstance(item, (list, tuple)) for item in value):
            items.fa.set_flow_style()
        return items
    if isinstance(value, float):
        if key == "rate_per_s":
            return f"{value:.6g} req/s"
        if key.endswith("_s"):
            return f"{value:.6g} s"
        return int(value) if value == int(value) else value
    return value
