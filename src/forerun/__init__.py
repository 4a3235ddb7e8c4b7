"""Run it before you rent it: a performance twin for AI and HPC-like workloads.

    import forerun

    case = forerun.load("forerun.yaml")
    result = forerun.simulate(case)
    print(result.metrics.ttft_s.p99, result.metrics.goodput_per_s.value)

Everything below is imported when it is first used, so `import forerun` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from forerun.version import __version__

#: public name -> the module that defines it
_WHERE = {
    **dict.fromkeys(
        ("Result", "default_deployment", "fit", "load", "predict", "requests", "simulate"),
        "forerun.api",
    ),
    **dict.fromkeys(("Case", "Fleet", "Group"), "forerun.spec.case"),
    **dict.fromkeys(("Deployment", "Engine", "Policy", "Pool"), "forerun.spec.deployment"),
    **dict.fromkeys(("Device", "Link"), "forerun.spec.device"),
    **dict.fromkeys(("Lengths", "Traffic"), "forerun.spec.workload"),
    **dict.fromkeys(("Budget", "Slo"), "forerun.spec.slo"),
    "Model": "forerun.spec.model",
    "Requests": "forerun.spec.requests",
    "ForerunError": "forerun.errors",
}

__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:
    from forerun.api import Result as Result
    from forerun.api import default_deployment as default_deployment
    from forerun.api import fit as fit
    from forerun.api import load as load
    from forerun.api import predict as predict
    from forerun.api import requests as requests
    from forerun.api import simulate as simulate
    from forerun.errors import ForerunError as ForerunError
    from forerun.spec.case import Case as Case
    from forerun.spec.case import Fleet as Fleet
    from forerun.spec.case import Group as Group
    from forerun.spec.deployment import Deployment as Deployment
    from forerun.spec.deployment import Engine as Engine
    from forerun.spec.deployment import Policy as Policy
    from forerun.spec.deployment import Pool as Pool
    from forerun.spec.device import Device as Device
    from forerun.spec.device import Link as Link
    from forerun.spec.model import Model as Model
    from forerun.spec.requests import Requests as Requests
    from forerun.spec.slo import Budget as Budget
    from forerun.spec.slo import Slo as Slo
    from forerun.spec.workload import Lengths as Lengths
    from forerun.spec.workload import Traffic as Traffic


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'forerun' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
