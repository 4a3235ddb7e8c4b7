"""Who sends what: a case's tenants, with the goals of their classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from forerun.errors import Problem, SpecError, nearest
from forerun.spec.case import Case
from forerun.spec.requests import Requests
from forerun.spec.slo import SloClass
from forerun.spec.streams import stream
from forerun.spec.traces.mix import drawn_by_share, merged
from forerun.spec.traces.regional import drawn_in


def with_senders(case: Case, common: Requests) -> Requests:
    """The requests of a case with its tenants: numbered as the case names them.

    Those of the case's traffic are sent by whom the trace says, else by the tenants without traffic
    of their own, drawn by their shares (stream `tenants`).  Own traffic is drawn with a seed of its
    own.  Priorities and deadlines of classes stand where requests have none.
    """
    shared = [u for u, said in enumerate(case.tenants.values()) if said.traffic is None]
    if common.tenant is not None:
        which = _named(case, common)
    else:
        shares = np.array([list(case.tenants.values())[u].share for u in shared])
        draw = stream(case.seed, "tenants")
        which = np.array(shared, dtype=np.int64)[drawn_by_share(common, shares, draw)]
    parts = [replace(common, tenant=which)]
    for u, (name, said) in enumerate(case.tenants.items()):
        if said.traffic is not None:
            seed = int(stream(case.seed, f"traffic of tenant {name}").integers(2**31))
            own = drawn_in(case.regions, said.traffic, seed=seed)
            parts.append(replace(own, tenant=np.full(len(own), u, dtype=np.int64)))
    return _promised(case, merged(parts, apart=("session", "workflow")))


def _named(case: Case, common: Requests) -> np.ndarray:
    """The tenants that a trace names, as numbers of the case's.

    Raises SpecError for one of either that the other lacks.
    """
    assert common.tenant is not None
    numbers = np.unique(common.tenant).tolist()
    labels = common.meta.get("tenants") or {str(n): n for n in numbers}
    labels = {label: n for label, n in labels.items() if n in numbers}
    problems = []
    for name, said in case.tenants.items():
        if name not in labels and said.traffic is None:
            what = f"no request of {case.traffic.trace} is of a tenant {name!r}"
            problems.append(Problem(f"tenants.{name}", what, nearest(name, labels)))
    lacking = sorted(label for label in labels if label not in case.tenants)
    if lacking or any(n < 0 for n in numbers):
        whom = repr(lacking[0]) if lacking else "nobody"
        what = f"{case.traffic.trace} has requests of {whom}, which is no tenant of the case"
        fix = ", ".join(f"{label}: {{}}" for label in lacking[:4]) or "name a sender in each row"
        problems.append(Problem("tenants", what, fix))
    if problems:
        raise SpecError(*problems)
    names = list(case.tenants)
    known = np.array([names.index(label) for label in labels], dtype=np.int64)
    by_number = np.argsort(list(labels.values()))
    place = np.searchsorted(np.array(list(labels.values()))[by_number], common.tenant)
    return known[by_number][place]


def _promised(case: Case, requests: Requests) -> Requests:
    """Priorities and deadlines by class, where a trace or workflow gives none."""
    assert requests.tenant is not None
    classes = [_class(case, said.slo) for said in case.tenants.values()]
    out = requests
    if any(c.priority is not None for c in classes):
        said = np.array([0 if c.priority is None else c.priority for c in classes])
        known = np.array([c.priority is not None for c in classes])[requests.tenant]
        before = 0 if requests.priority is None else requests.priority
        out = replace(out, priority=np.where(known, said[requests.tenant], before))
    if any(c.e2el_s is not None for c in classes):
        due = np.array([np.inf if c.e2el_s is None else c.e2el_s for c in classes])
        due = due[requests.tenant]
        if requests.workflow is not None:  # a deadline there is the workflow's
            due = np.where(requests.workflow >= 0, np.inf, due)
        if requests.deadline_s is not None:
            due = np.where(np.isfinite(requests.deadline_s), requests.deadline_s, due)
        out = replace(out, deadline_s=due)
    return out


def _class(case: Case, name: str | None) -> SloClass:
    return SloClass() if name is None else case.slo.classes[name]
