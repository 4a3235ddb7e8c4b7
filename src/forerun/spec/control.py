"""What changes in a fleet while it runs: replicas that come and go with the load, and what fails.

Both are descriptions; `forerun.sim.control` carries them out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from forerun.spec.base import Spec
from forerun.spec.policy import Policy

#: what a scale rule may follow; each is a total over the pool, shared out over its replicas
METRICS = (
    "waiting", "running", "outstanding", "kv", "busy", "requests_per_s", "ttft_s",
)  # fmt: skip


class ColdStart(Spec):
    """What lies between asking for a replica and its first request, one stage after the other.

    As it stands nothing takes time.  `weights_from` is where the weights lie: on the device already
    or in host memory, on a local disk, on another machine, in an object store.
    """

    allocate_s: float = Field(default=0.0, ge=0)  # until a machine is there
    image_bytes: float = Field(default=0.0, ge=0)
    image_bytes_per_s: float | None = Field(default=None, gt=0)
    weights_from: Literal["device", "dram", "nvme", "network", "object_store"] = "device"
    weights_bytes_per_s: float | None = Field(default=None, gt=0)  # of the whole replica
    compile_s: float = Field(default=0.0, ge=0)  # compiling and capturing graphs
    warm_s: float = Field(default=0.0, ge=0)  # until health checks let requests in


class At(Spec):
    """From a time on, so many replicas."""

    at_s: float = Field(ge=0)
    replicas: int = Field(ge=0)


class Autoscale(Spec):
    """How many of a pool's replicas are rented, decided every `period_s`.

    `replicas` of the pool is what there is room for.  A rule wants a number of replicas; it is kept
    between the bounds, and a smaller one must have been wanted for `scale_in_delay_s` (a larger one
    for `scale_out_delay_s`).  A request that finds no replica brings up one at once.
    """

    policy: Policy = Policy(name="target_tracking")  # a file in sim/policies/scale/
    metric: str = "outstanding"  # one of METRICS
    target: float | None = Field(default=None, gt=0)  # of the metric, a replica
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int | None = Field(default=None, ge=1)  # all of the pool when absent
    initial_replicas: int | None = Field(default=None, ge=0)  # the fewest when absent
    period_s: float = Field(default=15.0, gt=0)
    scale_out_delay_s: float = Field(default=0.0, ge=0)
    scale_in_delay_s: float = Field(default=300.0, ge=0)
    scale_in: Literal["drain", "move"] = "drain"  # a replica that goes ends its requests, or moves
    keep_alive_s: float = Field(default=60.0, ge=0)  # keep_alive: how long an idle replica stays
    schedule: tuple[At, ...] = ()  # scheduled: how many from when on
    repeat_s: float | None = Field(default=None, gt=0)  # scheduled, forecast: length of a season
    ahead_s: float | None = Field(default=None, ge=0)  # forecast: how far; a cold start when absent


class Rebalance(Spec):
    """Decoding requests move to other replicas with their KV, as a rule says every `period_s`."""

    policy: Policy = Policy(name="virtual_usage")  # a file in sim/policies/rebalance/
    period_s: float = Field(default=1.0, gt=0)


class Fault(Spec):
    """Something that happens to replicas, at times drawn before the run or at given ones.

    `process` says when it begins and ends; `mtbf_s` is the mean time between the end of one and the
    start of the next, `mttr_s` how long one lasts, of each `per`.  Everything in one of these is
    struck at once.

    crash    the replica is gone with its KV and comes back by a cold start
    loss     the same for capacity that is taken away (spot): not paid for while it is gone;
             `notice_s` before, it takes no more requests and gives its decoding ones away (`move`)
             or tries to end them (`drain`)
    slow     its steps take `factor` times as long
    link     its link has 1/`factor` of its bandwidth
    upgrade  one group after the other drains for at most `notice_s`, is away for `mttr_s` and comes
             back by a cold start
    """

    effect: Literal["crash", "loss", "slow", "link", "upgrade"] = "crash"
    process: Policy = Policy(name="exponential")  # a file in sim/policies/fault/
    mtbf_s: float | None = Field(default=None, gt=0)
    mttr_s: float = Field(default=0.0, ge=0)
    shape: float = Field(default=1.0, gt=0)  # weibull: below 1 young ones fail more often
    at_s: tuple[float, ...] = ()  # listed, upgrade
    per: Literal["device", "replica", "node", "group", "fleet"] = "replica"
    group_replicas: int = Field(default=1, ge=1)  # in one rack or zone, or upgraded together
    pool: str | None = None  # every pool when absent
    replicas: tuple[int, ...] = ()  # of the pool; all when empty
    factor: float = Field(default=1.0, ge=1)
    notice_s: float = Field(default=0.0, ge=0)
    on_notice: Literal["drain", "move"] = "drain"
    requests: Literal["retry", "fail"] = "retry"  # what becomes of those on a replica that goes

    @model_validator(mode="before")
    @classmethod
    def _times_are_listed(cls, data):
        """Given times need no process to be named."""
        if isinstance(data, dict):
            if data.get("at_s") is not None and not isinstance(data["at_s"], (list, tuple)):
                data = {**data, "at_s": [data["at_s"]]}
            if data.get("at_s") and "process" not in data:
                data = {**data, "process": "listed"}
        return data
