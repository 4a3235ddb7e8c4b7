"""`lower_bound`: what a perfect system would need, to show how far a real plan is from it.

Perfect: every device at its data sheet's peaks all the time, work divided over devices at will,
batches always full, weights kept once.  What remains is physics: flop, bytes and memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forerun import catalog
from forerun.cost.memory import measure
from forerun.cost.price import price
from forerun.errors import ForerunError
from forerun.ops.check import math_format
from forerun.ops.lower import lower
from forerun.plan import bounds
from forerun.plan.space import STAGES
from forerun.spec.deployment import Pool
from forerun.spec.model import Model
from forerun.spec.requests import Requests
from forerun.spec.slo import Slo


@dataclass(frozen=True)
class Lower:
    """The least number of devices of one type, whatever schedules them."""

    device: str
    dtype: str | None
    devices: int
    binding: str  # "flop", "bytes", "weights" or "kv": what needs that many
    by_limit: Mapping[str, float] = field(default_factory=dict)  # devices, not rounded
    usd_per_hour: float | None = None


def lower_bound(
    model: Model, pool: Pool, requests: Requests, slo: Slo, usd_per_device_hour: float | None
) -> Lower | None:
    """The least devices of the pool's type for the trace; None when the model cannot run there.

        flop    least flop of the requests / (peak x time until they must be done)
        bytes   the same with bytes; weights are read once a full batch
        weights stored once
        kv      sum over requests and tokens of cache x (time to read the weights from all n
                devices) <= n x HBM x time, a square root in n

    The time is that of `bounds.busy_lanes`; where the SLO sets no end (closed loops, tpot alone)
    only the weights count.
    """
    device = catalog.device(pool.device)
    one = pool.model_copy(update={"tp": 1, "pp": 1, "dp": 1, "ep": 1, "cp": 1, "replicas": 1})
    try:
        graph = lower(model, one)
        table = price(graph, device, max_tokens=one.engine.max_num_batched_tokens,
                      max_seqs=one.engine.max_num_seqs)  # fmt: skip
        held = measure(model, one, device)
    except ForerunError:
        return None
    formats = {math_format(device, op.dtype) for op in graph.ops}
    peak = max(device.peak_flop_per_s[f] for f in formats if f is not None)  # type: ignore[index]
    limits = {"weights": held.weights_bytes / device.hbm_bytes}
    # weights that a layout can keep in the last-level caches are not read from memory
    domain = device.scale_up_domain or device.devices_per_node
    cached = held.weights_bytes / (domain * STAGES[-1]) <= (device.l2_bytes or 0.0)
    kept = one.engine.prefix_caching and requests.block_hashes is not None
    new = bounds.computed(requests, kept)
    if not requests.meta.get("concurrency"):
        for name, work, rate in (("flop", table.flop, peak),
                                 ("bytes", table.hbm_bytes, device.hbm_bytes_per_s)):  # fmt: skip
            least = bounds.least(table, work, kept=kept)
            parts = {"prompts": least.prompts(new), "whole": least.whole(requests, new)}
            limits[name] = max(
                (
                    bounds.busy_lanes(parts[part], span, requests, slo)
                    for part, span in bounds.horizons(slo, requests).items()
                ),
                default=0.0,
            ) / rate  # fmt: skip
        whole = bounds.horizons(slo, requests).get("whole")
        if cached:
            del limits["bytes"]
        elif whole is not None:
            limit = held.max_len
            a_token = held.kv_bytes(float(limit)) / limit  # windows stop growing: the least
            n = (requests.osl - 1).astype(float)
            tokens = n * new + n * (n - 1) / 2  # what others have too may be kept once
            read_s = (table.hbm_bytes.tokens[1] + table.hbm_bytes.seqs[1]) / device.hbm_bytes_per_s
            lanes = bounds.busy_lanes(tokens * a_token * read_s, whole, requests, slo)
            limits["kv"] = math.sqrt(max(0.0, lanes) / device.hbm_bytes)
    binding = max(limits, key=lambda k: limits[k])
    devices = max(1, math.ceil(limits[binding] - 1e-9))
    usd = None if usd_per_device_hour is None else devices * usd_per_device_hour
    return Lower(device.name, pool.dtype, devices, binding, limits, usd)


def least_of(found: Sequence[Lower]) -> Lower | None:
    """The cheapest of the bounds, by dollars where all prices are known, else by devices."""
    if not found:
        return None
    if all(one.usd_per_hour is not None for one in found):
        return min(found, key=lambda one: (one.usd_per_hour, one.devices, one.device))
    return min(found, key=lambda one: (one.devices, one.device))
