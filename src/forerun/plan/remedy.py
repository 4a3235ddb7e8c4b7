"""When nothing meets the goals: what binds, and the smallest change of each kind that helps.

Every change named was simulated: with it, some deployment meets the goals.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from forerun import catalog
from forerun.metrics.figure import text
from forerun.metrics.goodput import bounds as slo_bounds
from forerun.plan.budget import excesses
from forerun.plan.evaluate import Bench, Point
from forerun.plan.explain import resource_words, share_words
from forerun.plan.screen import Pruned, Ready, screen
from forerun.plan.seek import Found, least_replicas
from forerun.plan.space import Candidate, candidates
from forerun.plan.store import Store
from forerun.spec.case import Case
from forerun.spec.dtype import WEIGHT_BYTES, Dtype
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo

BEYOND = 16  # times the fleet that is looked at when the fleet is too small
TRIED = 4  # candidates of which more are tried
SMALLER: tuple[Dtype, ...] = ("fp8", "int4_wo")
Prices = Mapping[str, float | None]
Measured = Sequence[tuple[Bench, Point]]


def infeasible(
    case: Case,
    screened: Sequence[Ready | Pruned],
    found: Mapping[Ready, Found],
    requests: Requests,
    store: Store,
    usd: Prices,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what binds, what would help), in sentences."""
    able = [one if isinstance(one, Ready) else one.ready for one in screened]
    benches = [Bench(r, requests, case.slo, case.seed, store) for r in able if r is not None]
    meeting = _meeting(benches, found)
    points = [] if meeting else [
        (b, b.measure(b.ready.candidate.most)) for b in benches if b.ready.candidate.most
    ]  # fmt: skip
    points.sort(key=lambda pair: (-pair[1].attainment, pair[0].ready.candidate.name))
    smaller = _smaller(case, requests, store, usd)
    if meeting:
        limits = [f"{k} <= {v:g}" for k, v in case.budget.model_dump().items() if v is not None]
        said = [f"The budget binds ({', '.join(limits)}): the SLO alone could be met."]
        return tuple(said), (*_dearer(case, meeting), *smaller)
    said = []
    if points:
        bench, point = points[0]
        name = bench.ready.candidate.name
        said.append(
            f"Closest is {_n(point.replicas, name)}, all that the fleet holds: "
            f"{share_words(point, case.slo)}."
        )
        said += resource_words(point)
    said += _turned_away(screened, {b.ready.candidate.device for b, _ in points})
    return tuple(said), (
        *_looser(points, case.slo), *_more(case, benches, points, usd), *smaller,
    ) or ("No single change that was tried helps.",)  # fmt: skip


def _n(replicas: int, name: str) -> str:
    return f"{replicas} replica{'s' if replicas > 1 else ''} of {name}"


def _meets(replicas: int, name: str, devices: int = 0) -> str:
    """ "3 replicas of l40s tp 2 (6 devices) meet the SLO"."""
    size = f" ({devices} devices)" if devices > replicas else ""
    return f"{_n(replicas, name)}{size} meet{'s' if replicas == 1 else ''} the SLO"


def _meeting(benches: Sequence[Bench], found: Mapping[Ready, Found]) -> Measured:
    """What meets the SLO within the fleet, and so must be over the budget."""
    out = []
    for bench in benches:
        ready = bench.ready
        if ready in found:
            n = found[ready].met_at
        else:
            n = _least(bench, ready.least, ready.candidate.most)
        if n is not None:
            out.append((bench, bench.measure(n)))
    return out


def _least(bench: Bench, first: int, most: int, *, linear: bool = True) -> int | None:
    return least_replicas(lambda n: bench.judge(n).met, first, most, linear=linear)


def _turned_away(screened: Sequence[Ready | Pruned], ran: Collection[str]) -> list[str]:
    """One reason a device type, of a layout that the fleet has devices for where there is one.

    ran : devices on which some layout was simulated; there a larger layout is no answer.
    """
    pruned = [
        one
        for one in screened
        if isinstance(one, Pruned)
        and one.reason != "layout"
        and not (one.reason in ("fleet", "memory") and one.candidate.device in ran)
    ]
    if not ran:
        pruned = pruned or [one for one in screened if isinstance(one, Pruned)]
    out: dict[str, str] = {}
    for one in sorted(pruned, key=lambda p: (p.candidate.most < 1, p.reason == "fleet")):
        out.setdefault(one.candidate.device, f"{one.candidate.name}: {one.sentence}.")
    return list(out.values())


def _dearer(case: Case, meeting: Measured) -> list[str]:
    """The budget that the least excessive deployment asks for."""
    ways = []
    for bench, point in meeting:
        over = excesses(case, bench.ready.candidate, point)
        ways.append((max((e.value / e.limit for e in over), default=1.0),
                     bench.ready.candidate.name, point.replicas, over))  # fmt: skip
    _, name, replicas, over = min(ways, key=lambda way: way[:3])
    if not over:
        return []
    asks = " and ".join(f"budget.{e.key} to {e.shown(_up(e.value))}" for e in over)
    more = ", ".join(f"{e.shown(e.value - e.limit)} more" for e in over)
    return [f"raise {asks} ({more}): {_meets(replicas, name)}"]


def _up(value: float) -> float:
    """Rounded up to three digits, so that the value as printed does."""
    if value <= 0:
        return value
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / step - 1e-9) * step


def _looser(points: Measured, slo: Slo) -> list[str]:
    """The bound that has to give least, over all candidates at full fleet; else all together."""
    terms = slo_bounds(slo)
    ways = [
        (p.enough[t] / terms[t], b.ready.candidate.name, t, p) for b, p in points for t in p.enough
    ]
    if ways:
        factor, name, term, point = min(ways, key=lambda way: way[:3])
        bounds = f"{text(terms[term], 's')} to {text(_up(point.enough[term]), 's')}"
        return [
            f"loosen {term} from {bounds} ({_up(factor):.3g} times): {_meets(point.replicas, name)}"
        ]
    whole = [
        (p.enough_factor, b.ready.candidate.name, p.replicas)
        for b, p in points
        if p.enough_factor is not None
    ]
    if not whole:
        return []
    factor, name, replicas = min(whole)
    return [f"loosen every bound {_up(factor):.3g} times: {_meets(replicas, name)}"]


def _more(case: Case, benches: Sequence[Bench], points: Measured, usd: Prices) -> list[str]:
    """The smallest addition to the fleet that does: by dollars where prices are known."""
    near = [b for b, _ in points[:TRIED]]
    near += sorted((b for b in benches if b not in near), key=lambda b: b.ready.least)[:TRIED]
    ways = []
    for bench in near:
        c, ready = bench.ready.candidate, bench.ready
        most = max(BEYOND * max(1, c.most), 2 * ready.least)
        if not bench.judge(most).met:
            continue  # more of it does not help
        n = _least(bench, max(ready.least, c.most + 1), most, linear=False)
        if n is None or excesses(case, c, bench.measure(n)):
            continue
        extra = c.n_devices(n) - case.fleet.devices[c.device].count
        ways.append((_usd(usd, c, extra), extra, c.name, n, c))
    if not ways:
        return []
    _, extra, name, n, c = min(ways, key=lambda way: way[:4])
    return [f"add {extra} x {c.device} to the fleet: {_meets(n, name, c.n_devices(n))}"]


def _usd(usd: Prices, candidate: Candidate, devices: int) -> float:
    each = usd[candidate.device]
    return math.inf if each is None else each * devices


def _smaller(case: Case, requests: Requests, store: Store, usd: Prices) -> list[str]:
    """The first smaller weight format with which some layout does, in this fleet and budget."""
    model = catalog.model(case.model)
    asked = case.deployment.pools[0].dtype if case.deployment else None
    stored = asked or (model.quantization.weights if model.quantization else model.dtype)
    for dtype in SMALLER:
        if WEIGHT_BYTES[dtype] >= WEIGHT_BYTES[stored]:
            continue
        ways = []
        for c in candidates(case, None, (dtype,)):
            ready = screen(c, model, requests, case.slo, case.budget, usd[c.device])
            if isinstance(ready, Pruned):
                continue
            bench = Bench(ready, requests, case.slo, case.seed, store)
            n = _least(bench, ready.least, c.most)
            if n is not None and not excesses(case, c, bench.measure(n)):
                ways.append((_usd(usd, c, c.n_devices(n)), c.n_devices(n), c.name, n))
        if ways:
            _, devices, name, n = min(ways)
            what = "what it does to quality is not simulated"
            return [f"dtype {dtype}: {_meets(n, name, devices)} ({what})"]
    return []
