"""Why the first choice is the first, and why nothing does when nothing does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forerun import catalog
from forerun.metrics.figure import plural, text
from forerun.metrics.goodput import bounds as slo_bounds
from forerun.metrics.reason import LOW
from forerun.plan.evaluate import Bench, Point
from forerun.plan.screen import Pruned, Ready, screen
from forerun.plan.space import candidates
from forerun.plan.store import Store
from forerun.spec.case import Case
from forerun.spec.dtype import WEIGHT_BYTES, Dtype
from forerun.spec.requests import Requests
from forerun.spec.slo import Budget, Slo

if TYPE_CHECKING:
    from forerun.plan.result import Choice, Objective
    from forerun.plan.search import Found

KV_FULL = 0.95
BEYOND = 16  # times the fleet that is looked at when the fleet is too small
TRIED = 4  # candidates whose way out is searched
SMALLER: tuple[Dtype, ...] = ("fp8", "int4_wo")


def chosen(
    ranked: Sequence[tuple[Bench, Choice]], case: Case, objective: Objective
) -> tuple[str, ...]:
    """What binds the first choice, what separates it from the second, what one replica more buys.

    ranked : benches and choices, best first; at least one.
    """
    from forerun.plan.search import capacity

    bench, best = ranked[0]
    n, name = best.replicas, best.candidate.name
    out = [*_fewer(bench, best, case.slo), *_resource(best.point)]
    if best.safe:
        out.append(
            f"It is safe: with every step {bench.high:.3g} times as long (the pessimistic end of "
            f"the cost model's 80 % interval) {text(best.attainment_pessimistic, 'share')} of "
            "requests are good."
        )
    else:
        ask = text(case.slo.attainment, "share")
        cost = best.safe_usd_per_hour
        price = "" if cost is None else f", {text(cost, 'USD/h')}"
        then = (
            f"{plural(best.safe_replicas, 'replica')}{price} would hold"
            if best.safe_replicas
            else "the fleet has not enough of it to hold"
        )
        out.append(
            f"It is not safe: with every step {bench.high:.3g} times as long (the pessimistic end "
            f"of the cost model's 80 % interval) {text(best.attainment_pessimistic, 'share')} of "
            f"requests are good instead of {ask}; {then}."
        )
        out += _cheapest_safe(best, [choice for _, choice in ranked])
    if len(ranked) > 1:
        out.append(_runner_up(best, ranked[1][1], objective))
    more = bench.measure(n + 1)
    now, then_ = best.capacity_per_s, capacity(bench, n + 1)
    words = f"One replica more ({plural(best.n_devices // n, best.candidate.device)})"
    words += f" takes TTFT p99 from {text(best.point.ttft_p99_s, 's')} to "
    words += f"{text(more.ttft_p99_s, 's')} and TPOT p99 from {text(best.point.tpot_p99_s, 's')} "
    words += f"to {text(more.tpot_p99_s, 's')}"
    if now is not None and then_ is not None and not best.capacity_is_least:
        words += f"; {name} then carries {text(then_[0], 'req/s')} instead of {text(now, 'req/s')}"
    if best.usd_per_hour is not None:
        words += f", for {text(best.usd_per_hour / n, 'USD/h')} more"
    if n + 1 > best.candidate.most:
        words += " (the fleet has no more)"
    out.append(words + ".")
    return tuple(out)


def _cheapest_safe(best: Choice, ranked: Sequence[Choice]) -> list[str]:
    """The least that holds at the pessimistic end too, when it is another layout."""
    known = [(c.safe_usd_per_hour, c) for c in ranked if c.safe_usd_per_hour is not None]
    if not known:
        return []
    usd, safe = min(known, key=lambda pair: (pair[0], pair[1].candidate.name))
    if safe is best or safe.safe_replicas is None:
        return []
    return [
        f"The cheapest safe plan is {plural(safe.safe_replicas, 'replica')} of "
        f"{safe.candidate.name}, {text(usd, 'USD/h')}."
    ]


def _fewer(bench: Bench, best: Choice, slo: Slo) -> list[str]:
    """Which term of the SLO breaks first with a replica less, or with more load."""
    n = best.replicas
    if n > 1:
        point = bench.measure(n - 1)
        if point.met:  # more than the least was taken (objective latency)
            return [f"{plural(n - 1, 'replica')} would meet the SLO too."]
        how = f"With {plural(n - 1, 'replica')}"
    else:
        if best.capacity_per_s is None or best.capacity_is_least:
            return ["One replica is the least there can be."]
        r = bench.requests
        point = bench.measure(1, rate=1.03 * best.capacity_per_s * r.duration_s / (len(r) - 1))
        how = f"One replica is the least there can be; beyond {text(best.capacity_per_s, 'req/s')}"
    return [f"{how}, {_share(point, slo)}."]


def _share(point: Point, slo: Slo) -> str:
    """ "only 97.9 % of requests are good (99 % asked): 1.8 % miss ttft_s <= 500 ms"."""
    terms = slo_bounds(slo)
    misses = [
        f"{text(share, 'share')} miss {t} <= {text(terms[t], 's')}"
        for t, share in point.missed.items()
        if share > 0
    ]
    if point.rejected:
        misses.append(f"{point.rejected:,} are longer than a replica can hold")
    why = f": {', '.join(misses)}" if misses else ""
    return (
        f"only {text(point.attainment, 'share')} of requests are good "
        f"({text(slo.attainment, 'share')} asked){why}"
    )


def _resource(point: Point) -> list[str]:
    """What the steps spend their time on."""
    if point.compute is None or point.memory is None:
        return []
    shares = {"compute": point.compute, "HBM bandwidth": point.memory}
    name = max(shares, key=lambda k: shares[k])
    parts = f"{text(point.compute, 'share')} of peak flop, {text(point.memory, 'share')} of HBM"
    out = f"Steps are bound by {name}" if shares[name] >= LOW else "Steps are bound by neither"
    out += f" ({parts} while busy, {text(point.busy, 'share')} of the time)"
    if point.kv_peak is not None and point.kv_peak >= KV_FULL:
        out += f"; the KV cache fills to {text(point.kv_peak, 'share')}"
    return [out + "."]


def _runner_up(best: Choice, second: Choice, objective: Objective) -> str:
    values = {
        "cost": (best.usd_per_hour, second.usd_per_hour, "USD/h"),
        "energy": (best.point.energy_j_per_output_token,
                   second.point.energy_j_per_output_token, "J/token"),
        "carbon": (best.gco2e_per_hour, second.gco2e_per_hour, "gCO2e"),
        "latency": (best.point.e2el_p99_s, second.point.e2el_p99_s, "s"),
    }  # fmt: skip
    a, b, unit = values[objective]
    how = f"{plural(second.replicas, 'replica')} of {second.candidate.name}"
    per = "/h" if unit == "gCO2e" else " end to end at p99" if objective == "latency" else ""
    apart = "whose figure for this objective is not known"
    if a is not None and b is not None:
        apart = f"{text(b, unit)}{per}, {text((b - a) / a if a else 0.0, 'share')} more"
    else:
        a = None
    better = []
    for label, x, y in (
        ("TTFT p99", best.point.ttft_p99_s, second.point.ttft_p99_s),
        ("TPOT p99", best.point.tpot_p99_s, second.point.tpot_p99_s),
    ):
        if x is not None and y is not None:
            better.append(f"{label} {text(y, 's')} against {text(x, 's')}")
    safe = "safe" if second.safe else "not safe"
    return f"Next is {how}: {apart}; {', '.join([*better, safe])}."


# -- nothing meets the goals ---------------------------------------------------------------------


def infeasible(
    case: Case,
    screened: Sequence[Ready | Pruned],
    found: Mapping[Ready, Found],
    requests: Requests,
    store: Store,
    usd: Mapping[str, float | None],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what binds, the smallest change of each kind that helps), in sentences."""
    runnable = [one if isinstance(one, Ready) else one.ready for one in screened]
    able = [r for r in runnable if r is not None]
    benches = [Bench(r, requests, case.slo, case.seed, store) for r in able]
    met = [(b, found[b.ready]) for b in benches if b.ready in found and found[b.ready].met_at]
    if met or _only(screened, "budget"):
        return _over(case, benches, met, usd)
    if not able:
        return _nothing_fits(screened), _smaller(case, requests, store, usd)
    points = [(b, b.measure(max(1, b.ready.candidate.most))) for b in benches
              if b.ready.candidate.most >= 1]  # fmt: skip
    points.sort(key=lambda pair: (-pair[1].attainment, pair[0].ready.candidate.name))
    said = []
    if points:
        bench, point = points[0]
        said.append(
            f"Closest: all {plural(point.replicas, 'replica')} of {bench.ready.candidate.name} "
            f"that the fleet holds, {_share(point, case.slo)}."
        )
        said += _resource(point)
    limits = {one.sentence: None for one in screened if isinstance(one, Pruned)
              and one.reason in ("latency", "context", "throughput", "fleet")}  # fmt: skip
    said += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in list(limits)[:2]]
    remedies = [*_looser(points, case.slo), *_more(case, benches, points, usd),
                *_smaller(case, requests, store, usd)]  # fmt: skip
    return tuple(said), tuple(remedies) or ("No single change that was tried helps.",)


def _only(screened: Sequence[Ready | Pruned], reason: str) -> bool:
    """All that could run was turned away for this reason."""
    able = [one for one in screened if isinstance(one, Ready) or one.ready is not None]
    return bool(able) and all(isinstance(o, Pruned) and o.reason == reason for o in able)


def _over(case: Case, benches: Sequence[Bench], met, usd) -> tuple[tuple[str, ...], tuple]:
    """The SLO can be met, the budget cannot."""
    from forerun.plan.search import least_replicas

    rows = [(b, f.met_at, f.point) for b, f in met]
    for bench in benches if not rows else ():
        ready = bench.ready
        n = least_replicas(lambda n, b=bench: b.judge(n).met, ready.least, ready.candidate.most)
        if n is not None:
            rows.append((bench, n, bench.measure(n)))
    budget = case.budget
    said = ["The budget binds: " + ", ".join(
        f"{k} <= {v:g}" for k, v in budget.model_dump().items() if v is not None
    ) + "."]  # fmt: skip
    remedies = []
    for limit, key, unit in ((budget.usd_per_hour, "usd_per_hour", "USD/h"),
                             (budget.power_w, "power_w", "W")):  # fmt: skip
        values = [
            (v, b, n) for b, n, p in rows
            if (v := _spent(key, b, n, p, usd)) is not None
        ]  # fmt: skip
        if limit is None or not values:
            continue
        value, bench, n = min(values, key=lambda row: (row[0], row[1].ready.candidate.name))
        if value > limit:
            remedies.append(
                f"budget.{key} of {text(value, unit)} ({text(value - limit, unit)} more): "
                f"{plural(n, 'replica')} of {bench.ready.candidate.name} meet the SLO"
            )
    return tuple(said), tuple(remedies)


def _spent(key: str, bench: Bench, n: int, point: Point, usd) -> float | None:
    if key == "power_w":
        return point.power_w
    each = usd[bench.ready.candidate.device]
    return None if each is None else each * bench.ready.candidate.n_devices(n)


def _nothing_fits(screened: Sequence[Ready | Pruned]) -> tuple[str, ...]:
    """The reasons that no layout can run, one a device type: the roomiest layout's."""
    last: dict[str, Pruned] = {}
    for one in screened:
        if isinstance(one, Pruned) and one.reason in ("memory", "layout"):
            before = last.get(one.candidate.device)
            if before is None or one.reason == "memory":
                last[one.candidate.device] = one
    return tuple(f"{p.candidate.name}: {p.sentence}." for p in last.values())


def _looser(points: Sequence[tuple[Bench, Point]], slo: Slo) -> list[str]:
    """The bound that has to give least, over all candidates at full fleet."""
    terms = slo_bounds(slo)
    ways = [
        (p.enough[t] / terms[t], t, p.enough[t], b, p) for b, p in points for t in p.enough
    ]  # fmt: skip
    if ways:
        factor, term, bound, bench, point = min(
            ways, key=lambda w: (w[0], w[3].ready.candidate.name)
        )
        return [
            f"loosen {term} from {text(terms[term], 's')} to {text(bound, 's')} "
            f"({factor:.3g} times): {plural(point.replicas, 'replica')} of "
            f"{bench.ready.candidate.name} then meet the SLO"
        ]
    whole = [(p.enough_factor, b, p) for b, p in points if p.enough_factor is not None]
    if whole:
        factor, bench, point = min(whole, key=lambda w: (w[0], w[1].ready.candidate.name))
        return [
            f"loosen all bounds {factor:.3g} times: {plural(point.replicas, 'replica')} of "
            f"{bench.ready.candidate.name} then meet the SLO"
        ]
    return []


def _more(case: Case, benches, points, usd: Mapping[str, float | None]) -> list[str]:
    """The smallest addition to the fleet that does: by dollars where prices are known."""
    from forerun.plan.search import least_replicas

    near = [b for b, _ in points[:TRIED]]
    near += [b for b in sorted(benches, key=lambda b: b.ready.least) if b not in near][:TRIED]
    best = None
    for bench in near:
        c, ready = bench.ready.candidate, bench.ready
        most = max(BEYOND * max(1, c.most), 2 * ready.least)
        if not bench.judge(most).met:
            continue  # more of it does not help
        n = least_replicas(lambda n, b=bench: b.judge(n).met, max(ready.least, c.most + 1), most,
                           linear=False)  # fmt: skip
        if n is None:
            continue
        have = case.fleet.devices[c.device].count
        extra = c.n_devices(n) - have
        each = usd[c.device]
        key = (float("inf") if each is None else each * extra, extra, c.name)
        if best is None or key < best[0]:
            best = (key, c, n, extra)
    if best is None:
        return []
    _, c, n, extra = best
    return [
        f"add {extra} x {c.device} to the fleet: {plural(n, 'replica')} of {c.name} "
        f"({c.n_devices(n)} devices) meet the SLO"
    ]


def _smaller(
    case: Case, requests: Requests, store: Store, usd: Mapping[str, float | None]
) -> list[str]:
    """The first smaller weight format with which some layout does."""
    from forerun.plan.search import least_replicas

    model = catalog.model(case.model)
    asked = case.deployment.pools[0].dtype if case.deployment else None
    stored = asked or (model.quantization.weights if model.quantization else model.dtype)
    plain = case.model_copy(update={"budget": Budget()})
    for dtype in SMALLER:
        if WEIGHT_BYTES[dtype] >= WEIGHT_BYTES[stored]:
            continue
        ways = []
        for c in candidates(plain, None, (dtype,)):
            ready = screen(c, model, requests, case.slo, plain.budget, usd[c.device])
            if isinstance(ready, Pruned):
                continue
            bench = Bench(ready, requests, case.slo, case.seed, store)
            n = least_replicas(lambda n, b=bench: b.judge(n).met, ready.least, c.most)
            if n is not None:
                each = usd[c.device]
                ways.append((float("inf") if each is None else each * c.n_devices(n),
                             c.n_devices(n), c.name, n))  # fmt: skip
        if ways:
            _, devices, name, n = min(ways)
            return [
                f"dtype {dtype}: {plural(n, 'replica')} of {name} ({devices} devices) meet the "
                "SLO (what it does to quality is not simulated)"
            ]
    return []
