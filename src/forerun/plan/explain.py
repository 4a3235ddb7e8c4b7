"""Why the first choice is the first: what binds it, what comes next, what more would buy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from forerun.metrics.figure import plural, text
from forerun.metrics.goodput import bounds as slo_bounds
from forerun.metrics.reason import LOW
from forerun.plan.evaluate import Bench, Point
from forerun.plan.seek import capacity
from forerun.spec.case import Case
from forerun.spec.slo import Slo

if TYPE_CHECKING:
    from forerun.plan.result import Choice, Objective

KV_FULL = 0.95


def chosen(
    ranked: Sequence[tuple[Bench, Choice]], case: Case, objective: Objective
) -> tuple[str, ...]:
    """What binds the first choice, what separates it from the second, what one replica more buys.

    ranked : benches and choices, best first; at least one.
    """
    bench, best = ranked[0]
    n, name = best.replicas, best.candidate.name
    out = [*_fewer(bench, best, case.slo), *resource_words(best.point)]
    low = best.point.attainment_low
    if low is not None and low < case.slo.attainment:
        out.append(
            f"Its margin is within sampling: another draw of such traffic may keep as few as "
            f"{text(low, 'share')} of requests good."
        )
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
    words = f"One replica more ({best.n_devices // n} x {best.candidate.device})"
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
    return [f"{how}, {share_words(point, slo)}."]


def share_words(point: Point, slo: Slo) -> str:
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
    only = "" if point.met else "only "
    return (
        f"{only}{text(point.attainment, 'share')} of requests are good "
        f"({text(slo.attainment, 'share')} asked){why}"
    )


def resource_words(point: Point) -> list[str]:
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
    better = []
    for label, x, y in (
        ("TTFT p99", best.point.ttft_p99_s, second.point.ttft_p99_s),
        ("TPOT p99", best.point.tpot_p99_s, second.point.tpot_p99_s),
    ):
        if x is not None and y is not None:
            better.append(f"{label} {text(y, 's')} against {text(x, 's')}")
    safe = "safe" if second.safe else "not safe"
    return f"Next is {how}: {apart}; {', '.join([*better, safe])}."
