"""What a `Traffic` lacks, and where it contradicts itself: all of it at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

from forerun.errors import Problem, SpecError, nearest
from forerun.spec.graph import circle
from forerun.spec.traces import bundled
from forerun.spec.workload import Lengths, Node, Traffic

_DRAWN = ("poisson", "gamma", "on_off", "diurnal", "uniform")
#: settings that only one kind of arrivals reads
_OWNER = {
    "cv": "gamma", "on_s": "on_off", "off_s": "on_off", "period_s": "diurnal", "swing": "diurnal",
    "ahead_s": "diurnal",
}  # fmt: skip


def check_traffic(traffic: Traffic) -> None:
    """Raises SpecError with every problem; returns nothing when there is none."""
    problems = [
        *check_loop(traffic),
        *check_rate(traffic),
        *check_end(traffic),
        *check_trace(traffic),
        *check_unused(traffic),
        *check_lengths("isl", traffic.isl),
        *check_lengths("osl", traffic.osl),
        *check_lengths("kept_tokens", traffic.kept_tokens),
        *check_lengths("attended_tokens", traffic.attended_tokens),
        *check_workflow(traffic),
        *check_turns(traffic),
        *check_render(traffic),
    ]
    if problems:
        raise SpecError(*(Problem(f"traffic.{where}", what, fix) for where, what, fix in problems))


Sentences = Iterator[tuple[str, str, str]]  # (where, what is wrong, fix)


def check_loop(t: Traffic) -> Sentences:
    if not t.concurrency:
        if t.think_s:
            yield "think_s", "clients think only in a closed loop", "add concurrency"
        return
    if t.rate_per_s:
        fix = "drop one: concurrency is a closed loop, rate_per_s an open one"
        yield "rate_per_s", "given together with concurrency", fix
    if t.arrivals:
        what = f"{t.arrivals} arrivals given together with concurrency, which makes its own"
        yield "arrivals", what, "drop one of the two"
    if t.duration_s:
        what = "how many requests a closed loop sends in a given time is an answer, not a setting"
        yield "duration_s", what, "n_requests instead"


def check_rate(t: Traffic) -> Sentences:
    if t.rate_per_s is not None and not math.isfinite(t.rate_per_s):
        yield "rate_per_s", f"{t.rate_per_s:g} is not finite", "arrivals: at_once"
    if t.concurrency:
        return
    if t.arrivals == "at_once" and t.rate_per_s:
        yield "rate_per_s", "requests that all come at once have no rate", "drop one of the two"
    needs = t.arrivals in _DRAWN or (t.trace is None and t.arrivals is None)
    if needs and not t.rate_per_s:
        kind = f"{t.arrivals} arrivals need a rate" if t.arrivals else "nothing says when to come"
        fix = "rate_per_s: 4 req/s" + ("" if t.arrivals else ", or concurrency, or a trace")
        yield "rate_per_s", kind, fix


def check_end(t: Traffic) -> Sentences:
    if t.duration_s is not None and not math.isfinite(t.duration_s):
        yield "duration_s", "the duration is infinite", "duration_s: 1 h"
    if t.arrivals == "at_once" and t.duration_s:
        yield "duration_s", "requests that all come at once take no time", "n_requests instead"
    bundle = t.trace in bundled.names()
    endless = t.trace is None or (bundle and (t.concurrency or t.arrivals not in (None, "trace")))
    bounded = t.n_requests or (t.duration_s and not t.concurrency and t.arrivals != "at_once")
    if endless and not bounded:
        what = "nothing says when the traffic ends"
        only_n = t.concurrency or t.arrivals == "at_once"
        fix = "n_requests: 10000" + ("" if only_n else " or duration_s: 1 h")
        yield "n_requests", what, fix


def check_trace(t: Traffic) -> Sentences:
    if t.trace is None:
        if t.arrivals == "trace":
            fix = "trace: chat (bundled) or the path of a file"
            yield "trace", "arrivals come from a trace and none is named", fix
        for name in ("isl", "osl"):
            if getattr(t, name) is None and t.workflow is None and t.render is None:
                yield name, "missing: without a trace, lengths must be said", f"{name}: 500"
        if t.format:
            yield "format", "there is no trace to read in this format", "trace: path"
        if t.skip_bad:
            yield "skip_bad", "there is no trace whose bad rows could be skipped", "trace: path"
        return
    for name in ("isl", "osl"):
        if getattr(t, name) is not None:
            yield name, f"given together with a trace, which has its own {name}", "drop one"
    if t.format and t.trace in bundled.names():
        yield "format", f"{t.trace} is a bundled workload, not a file", "drop it"


def check_turns(t: Traffic) -> Sentences:
    if t.turns == "recorded":
        if t.token_s != type(t).model_fields["token_s"].default:
            yield "token_s", "only turns: after_answer reads it", "turns: after_answer"
        return
    if t.trace is None:
        yield "turns", "there is no trace whose conversations could go on", "trace: path"
    elif t.concurrency or t.arrivals not in (None, "trace"):
        what = "a conversation goes on by the clock of its trace, and these arrivals have another"
        yield "turns", what, "arrivals: trace"


def check_render(t: Traffic) -> Sentences:
    if t.render is None:
        return
    for name in ("isl", "osl", "trace", "workflow", "documents", "media", "kept_tokens"):
        if getattr(t, name) is not None:
            what = "is of text, and these requests ask for images or video"
            fix = (
                "drop it; render.steps says how many steps they take"
                if name == "osl"
                else "drop it"
            )
            yield name, what, fix
    if t.attended_tokens is not None:
        yield "attended_tokens", "is not combined with images that are made", "drop it"
    if t.questions:
        yield "questions", "are of text, and these requests ask for images or video", "drop them"
    if t.render.stream is not None:
        for name in ("concurrency", "client"):
            if getattr(t, name) is not None:
                yield name, "chunks of a stream come at its pace", "drop it, or the stream"
        if t.render.frames is not None:
            yield "render.frames", "a stream has frames of its own", "stream: {frames: 4}"
        for inner, what, fix in check_lengths("seconds", t.render.stream.seconds):
            yield f"render.stream.{inner}", what.replace("tokens", "seconds"), fix
    for inner, what, fix in check_lengths("steps", t.render.steps):
        yield f"render.{inner}", what.replace("tokens", "steps"), fix


def check_unused(t: Traffic) -> Sentences:
    for name, owner in _OWNER.items():
        if getattr(t, name) != type(t).model_fields[name].default and t.arrivals != owner:
            yield name, f"only {owner} arrivals read it", f"arrivals: {owner}"


def check_lengths(name: str, x: Lengths | None) -> Sentences:
    if x is None:
        return
    free = type(x).model_fields["high"].default
    if not math.isfinite(x.mean):
        yield f"{name}.mean", f"{x.mean:g} is not finite", f"{name}: 500"
        return
    if x.low > x.high:
        yield f"{name}.low", f"{x.low} is above high, {x.high}", ""
    elif not x.low <= x.mean <= x.high:
        yield f"{name}.mean", f"{x.mean:g} is not between low {x.low} and high {x.high}", ""
    if x.cv and x.kind != "lognormal":
        yield f"{name}.cv", f"only lognormal lengths read it, and these are {x.kind}", ""
    if x.kind == "fixed" and x.mean != round(x.mean):
        fix = f"{name}: {round(x.mean)}"
        yield f"{name}.mean", f"{x.mean:g} is not a whole number of tokens", fix
    if x.kind == "uniform":
        high = 2 * x.mean - x.low if x.high == free else x.high
        low = 2 * x.mean - x.high if x.low == 1 and x.high != free else x.low
        if abs((low + high) / 2 - x.mean) > 0.5 or low < 1:
            what = f"uniform from {x.low} to {x.high} has mean {(x.low + x.high) / 2:g}"
            yield f"{name}.mean", f"{x.mean:g}, but {what}", "drop low or high"


def check_workflow(t: Traffic) -> Sentences:
    """A workflow names nodes that exist, in an order that can be kept."""
    if t.workflow is None:
        return
    for name in ("trace", "isl", "osl"):
        if getattr(t, name) is not None:
            what = f"given together with a workflow, whose nodes have their own {name}"
            yield name, what if name != "trace" else "given together with a workflow", "drop one"
    nodes = t.workflow.nodes
    if not nodes:
        yield "workflow.nodes", "there is none", "nodes: {turn: {isl: 500, osl: 100}}"
    for name, node in nodes.items():
        where = f"workflow.nodes.{name}"
        for key, named in (
            ("after", node.after),
            ("each", [node.each]),
            ("extends", [node.extends]),
        ):
            for other in named:
                if other is not None and other not in nodes:
                    yield f"{where}.{key}", f"no node is called {other!r}", nearest(other, nodes)
        for key in ("isl", "osl", "copies", "repeat"):
            for inner, what, fix in check_lengths(key, getattr(node, key)):
                yield f"{where}.{inner}", what.replace("lengths", "counts"), fix
        yield from _check_delay(f"{where}.delay", node)
    waits = {name: [b for b in _before(node) if b in nodes] for name, node in nodes.items()}
    if found := circle(waits):
        what = "nodes wait for each other in a circle: " + " -> ".join(found)
        yield "workflow.nodes", what, "leave one `after` out; repeat: 3 sends a node again"
        return
    for name, node in nodes.items():
        if node.extends in nodes and node.extends not in (name, *_ancestors(name, waits)):
            what = f"{name} does not wait for {node.extends}, whose answer it begins with"
            yield f"workflow.nodes.{name}.extends", what, f"after: {node.extends}"
        if node.extends is not None and node.extends != name and node.system:
            what = f"its prompt begins like that of {node.extends}"
            yield f"workflow.nodes.{name}.system", what, "drop system or extends"


def _check_delay(where: str, node: Node) -> Sentences:
    if not math.isfinite(node.delay.mean_s):
        yield f"{where}.mean_s", f"{node.delay.mean_s:g} s is not finite", "delay: 2 s"
    if node.delay.cv and node.delay.kind != "lognormal":
        yield f"{where}.cv", f"only lognormal delays read it, and this is {node.delay.kind}", ""


def _before(node: Node) -> tuple[str, ...]:
    return node.after if node.each is None else (*node.after, node.each)


def _ancestors(name: str, waits: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(waits[name])
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo += waits[other]
    return found
