"""From a `Traffic` to its `Requests`: a trace as it is or rescaled, or drawn from a description.

Two random streams: `arrivals` and `lengths`.  Changing the one leaves the other's draws as they
were, and drawing in pieces gives the same requests as drawing at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forerun.errors import ForerunError, SpecError
from forerun.spec.requests import Requests
from forerun.spec.streams import stream
from forerun.spec.traces import bundled, detect, draws, read
from forerun.spec.traces._adapters import with_adapters
from forerun.spec.traces._checks import check_traffic
from forerun.spec.traces._columns import take
from forerun.spec.traces._documents import with_documents
from forerun.spec.traces._media import with_media
from forerun.spec.traces._processes import arrival_chunks, draw_tokens, length_chunks
from forerun.spec.traces._questions import with_questions
from forerun.spec.traces._renders import with_render
from forerun.spec.traces._streams import with_streams
from forerun.spec.traces._turns import after_answer
from forerun.spec.traces._workflows import draw_workflows
from forerun.spec.traces.synth import Synth, load
from forerun.spec.workload import Lengths, Traffic

CHUNK = 1_000_000
MAX = 2**62


def requests_of(traffic: Traffic, *, seed: int, models: bool = False) -> Requests:
    """The requests of a traffic description.

    Open loop: with a trace, its own arrivals (the clock stretched when `rate_per_s` is given, so
    that the requests returned have that rate) or drawn ones with the trace's lengths in the
    trace's order; without a trace, arrivals and lengths are drawn.
    Closed loop: all arrive at 0, and `meta["concurrency"]` and `meta["think_s"]` say how the
    simulator is to send them.  `n_requests` and `duration_s` cut, whichever comes first.
    models : whether the models that a trace names are kept (`meta["models"]`).
    Raises SpecError naming everything that is missing or contradicts itself.
    """
    check_traffic(traffic)
    if traffic.render is not None:  # lengths are the model's to say
        one = Lengths(mean=1)
        traffic = traffic.model_copy(update={"isl": one, "osl": one})
    if traffic.workflow is not None:
        requests = _workflows(traffic, seed)
    elif traffic.trace is None:
        if traffic.concurrency:
            requests = _at_zero(traffic, seed)
        else:
            requests = _joined(list(_drawn(traffic, seed, CHUNK)), traffic, seed)
    elif (workload := fitted(traffic.trace)) is not None:
        requests = _turned(traffic, _from_synth(traffic, workload, seed))
    else:
        requests = _from_trace(traffic, _read(traffic, seed), seed)
    if requests.model is not None and not models:
        requests = replace(requests, model=None)
    if traffic.documents is not None:
        requests = with_documents(requests, traffic.documents, seed=seed)
    if traffic.media is not None:
        requests = with_media(requests, traffic.media, seed=seed)
    if traffic.render is not None:
        requests = with_render(requests, traffic.render, seed=seed)
        if traffic.render.stream is not None:
            requests = with_streams(requests, traffic.render, seed=seed)
    if traffic.adapters is not None:
        requests = with_adapters(requests, traffic.adapters, seed=seed)
    caps: dict[str, Any] = {
        name: draw_tokens(cap, stream(seed, name), len(requests))
        for name in ("kept_tokens", "attended_tokens")
        if (cap := getattr(traffic, name)) is not None
    }
    if caps:
        requests = replace(requests, **caps)
    if traffic.questions:
        requests = with_questions(requests, traffic.questions, seed=seed)
    meta: dict[str, Any] = {}
    if traffic.concurrency:
        meta = {"concurrency": traffic.concurrency, "think_s": traffic.think_s}
    if traffic.client is not None:
        meta["client"] = traffic.client
    if meta:
        requests = take(requests, np.arange(len(requests)), meta={**requests.meta, **meta})
    return requests


def _turned(traffic: Traffic, requests: Requests) -> Requests:
    """The trace's conversations as the traffic wants them to go on."""
    if traffic.turns == "recorded":
        return requests
    return after_answer(requests, token_s=traffic.token_s, trace=str(traffic.trace))


def iter_requests(traffic: Traffic, *, seed: int, chunk: int = CHUNK) -> Iterator[Requests]:
    """The same requests in pieces of at most `chunk`, on one clock.

    Drawn traffic takes memory for one piece only, however many requests there are; a trace or a
    bundled workload is made whole first.
    """
    if chunk < 1:
        raise SpecError.one("chunk", f"{chunk} is not at least 1")
    check_traffic(traffic)
    names = (
        "concurrency", "workflow", "documents", "media", "render", "questions", "kept_tokens",
        "attended_tokens", "adapters",
    )  # fmt: skip
    at_once = any(getattr(traffic, name) for name in names)
    if traffic.trace is None and not at_once:
        yield from _drawn(traffic, seed, chunk)
        return
    whole = requests_of(traffic, seed=seed)
    for i in range(0, len(whole), chunk):
        yield take(whole, np.arange(i, min(i + chunk, len(whole))))


def fitted(trace: str) -> Synth | None:
    """The fitted workload that `trace` names: a bundled one, or a file that `trace synth` wrote."""
    if is_bundled(trace):
        return bundled.load(trace)
    return load(trace) if Path(trace).suffix in (".yaml", ".yml") else None


def is_bundled(trace: str) -> bool:
    """Does `trace` name a bundled workload (and not a file)?"""
    bare = "/" not in trace and "\\" not in trace and "." not in trace
    return trace in bundled.names() or (bare and not Path(trace).exists())


def _read(traffic: Traffic, seed: int) -> Requests:
    assert traffic.trace is not None
    format = traffic.format or detect(traffic.trace)
    options: dict[str, Any] = {"seed": seed} if draws(format) else {}
    if options and traffic.duration_s and traffic.rate_per_s is None:
        options["duration_s"] = traffic.duration_s
    return read(traffic.trace, format=format, skip_bad=traffic.skip_bad, **options)


def _drawn(traffic: Traffic, seed: int, chunk: int) -> Iterator[Requests]:
    assert traffic.isl
    assert traffic.osl
    arrivals = arrival_chunks(traffic, stream(seed, "arrivals"), chunk)
    lengths = length_chunks(traffic.isl, traffic.osl, stream(seed, "lengths"))
    meta = _meta(traffic, seed)
    for arrival in arrivals:
        isl, osl = lengths(len(arrival))
        yield Requests(arrival_s=arrival, isl=isl, osl=osl, meta=meta)


def _at_zero(traffic: Traffic, seed: int) -> Requests:
    assert traffic.isl
    assert traffic.osl
    assert traffic.n_requests
    isl, osl = length_chunks(traffic.isl, traffic.osl, stream(seed, "lengths"))(traffic.n_requests)
    zeros = np.zeros(traffic.n_requests)
    return Requests(arrival_s=zeros, isl=isl, osl=osl, meta=_meta(traffic, seed))


def _workflows(traffic: Traffic, seed: int) -> Requests:
    assert traffic.workflow
    if traffic.concurrency:
        assert traffic.n_requests
        arrival = np.zeros(traffic.n_requests)
    else:
        parts = list(arrival_chunks(traffic, stream(seed, "arrivals"), CHUNK))
        if not parts or not len(arrival := np.concatenate(parts)):
            raise _empty(traffic)
    drawn = draw_workflows(traffic.workflow, arrival, stream(seed, "lengths"))
    meta = {**_meta(traffic, seed), "on_failure": traffic.workflow.on_failure}
    return replace(drawn, meta=meta)


def _meta(traffic: Traffic, seed: int) -> dict[str, Any]:
    kind = traffic.arrivals or ("closed" if traffic.concurrency else "poisson")
    return {"source": "drawn", "format": "drawn", "drawn": {"arrivals": kind, "seed": seed}}


def _joined(parts: list[Requests], traffic: Traffic, seed: int) -> Requests:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)])
        for name in ("arrival_s", "isl", "osl")
    }
    if not len(columns["arrival_s"]):
        raise _empty(traffic)
    return Requests(**columns, meta=_meta(traffic, seed))


def _empty(traffic: Traffic) -> ForerunError:
    what = f"no request arrives within {traffic.duration_s:g} s"
    return SpecError.one("traffic.duration_s", what, "a longer duration_s or a higher rate_per_s")


def _from_synth(traffic: Traffic, synth: Synth, seed: int) -> Requests:
    """A bundled workload: its own arrivals, or drawn ones, or none in a closed loop."""
    if traffic.concurrency or traffic.arrivals not in (None, "trace"):
        return _with_arrivals(traffic, None, synth, seed)
    if synth.arrivals is None:
        raise _no_times(f"the workload {synth.name}")
    rate = traffic.rate_per_s
    n, duration = traffic.n_requests, traffic.duration_s
    if n is None and duration is None:
        duration = synth.period_s
    if rate is None:
        return synth.draw(n, duration_s=duration, seed=seed)
    n = min(n or MAX, round(rate * duration) if duration else MAX)
    if n == 0:
        raise _empty(traffic)
    drawn = synth.draw(n, seed=seed, rate_scale=rate / synth.arrivals.rate_per_s)
    return _at_rate(traffic, drawn)


def _from_trace(traffic: Traffic, trace: Requests, seed: int) -> Requests:
    if traffic.concurrency or traffic.arrivals not in (None, "trace"):
        return _with_arrivals(traffic, trace, None, seed)
    if trace.meta.get("arrivals") == "absent":
        raise _no_times(f"{traffic.trace}")
    n = len(trace)
    if traffic.n_requests and traffic.n_requests > n:
        raise _too_few(traffic, n, traffic.n_requests)
    n = min(n, traffic.n_requests or n)
    if traffic.duration_s and traffic.rate_per_s:
        n = min(n, round(traffic.rate_per_s * traffic.duration_s))
    elif traffic.duration_s:
        n = min(n, int(np.searchsorted(trace.arrival_s, traffic.duration_s)))
    if n == 0:
        raise _empty(traffic)
    kept = _turned(traffic, take(trace, np.arange(n)))
    if traffic.rate_per_s:
        kept = _at_rate(traffic, kept)
    end = float(kept.arrival_s[-1])
    if traffic.duration_s and n == len(trace) and end < 0.95 * traffic.duration_s:
        note = f"{traffic.trace} ends after {end:.6g} s, before duration_s {traffic.duration_s:g} s"
        kept = take(kept, np.arange(n), meta={**kept.meta, "notes": (note,)})
    return kept


def _at_rate(traffic: Traffic, requests: Requests) -> Requests:
    """The same requests on a clock stretched so that these (the cut ones) have the rate asked.

    rate = (n - 1) / (last arrival - first arrival).  Stretching after the cut keeps the promise
    also where a trace begins quieter than it goes on.
    """
    assert traffic.rate_per_s
    n = len(requests)
    if n < 2:
        return requests
    if not requests.duration_s > 0:
        what = f"the {n} requests of {traffic.trace} that are kept arrive at one moment: no rate"
        fix = "more requests, or arrivals: poisson"
        raise SpecError.one("traffic.rate_per_s", what, fix)
    factor = (n - 1) / requests.duration_s / traffic.rate_per_s
    meta = {**requests.meta, "stretched": factor}
    return take(requests, np.arange(n), arrival_s=requests.arrival_s * factor, meta=meta)


def _with_arrivals(
    traffic: Traffic, trace: Requests | None, synth: Synth | None, seed: int
) -> Requests:
    """A trace's or a workload's lengths (and prefixes) under arrivals that are not its own."""
    n = traffic.n_requests
    if traffic.concurrency or traffic.arrivals == "at_once":
        if n is None:
            assert trace is not None  # check_traffic asks n_requests of a bundled workload
            n = len(trace)
        arrival = np.zeros(n)
    else:
        if n is None and traffic.duration_s is None:
            assert trace is not None
            traffic = traffic.model_copy(update={"n_requests": len(trace)})
        parts = list(arrival_chunks(traffic, stream(seed, "arrivals"), CHUNK))
        arrival = np.concatenate(parts) if parts else np.zeros(0)
        if not len(arrival):
            raise _empty(traffic)
    if synth is not None:
        drawn = synth.draw_at(arrival, seed=seed)
        return take(drawn, np.arange(len(drawn)), meta={**drawn.meta, **_kind(traffic, seed)})
    assert trace is not None
    if len(arrival) > len(trace):
        raise _too_few(traffic, len(trace), len(arrival))
    meta = {k: v for k, v in trace.meta.items() if k != "arrivals"} | _kind(traffic, seed)
    return take(trace, np.arange(len(arrival)), arrival_s=arrival, meta=meta)


def _kind(traffic: Traffic, seed: int) -> dict[str, Any]:
    return {"drawn": _meta(traffic, seed)["drawn"]}


def _too_few(traffic: Traffic, have: int, wanted: int) -> ForerunError:
    where = "traffic.n_requests" if traffic.n_requests else "traffic.duration_s"
    what = f"{wanted:,} requests are asked for and {traffic.trace} holds {have:,}"
    fix = f"n_requests: {have}, or fit a synthesiser to the trace (forerun trace synth)"
    return SpecError.one(where, what, fix)


def _no_times(whose: str) -> ForerunError:
    what = f"{whose} has lengths and no arrival times"
    return SpecError.one("traffic.arrivals", what, "arrivals: poisson, with rate_per_s")
