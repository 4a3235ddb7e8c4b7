"""What makes `moe` of a pool impossible, each with its repair, before anything is priced."""

from __future__ import annotations

from forerun import catalog
from forerun.errors import Problem, SpecError, nearest
from forerun.ops.graph import Graph
from forerun.ops.moe import Experts
from forerun.sim.moe import layout
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.model import Model, Moe


def check_experts(model: Model, pool: Pool, device: Device, graph: Graph) -> list[Problem]:
    """All that is wrong with a pool's `moe`; the layout of experts itself is checked elsewhere."""
    run, where = pool.moe, f"deployment.{pool.name}.moe"
    if run is None:
        return []
    kinds = {(g.ffn.n_experts, g.ffn.topk) for g in model.layers if isinstance(g.ffn, Moe)}
    if not kinds:
        return [Problem(where, f"{model.name} has no experts", "leave moe out")]
    out: list[Problem] = []
    if len(kinds) > 1:
        said = " and ".join(f"{e} experts, {k} a token" for e, k in sorted(kinds))
        out.append(Problem(where, f"layers of {model.name} differ: {said}", "leave moe out"))
    if run.placement not in layout.names():
        out.append(Problem(
            f"{where}.placement", f"no placement is called {run.placement}",
            nearest(run.placement, layout.names()),
        ))  # fmt: skip
    elif run.rebalance_s is not None and not layout.find(run.placement)[1]:
        out.append(Problem(
            f"{where}.rebalance_s", f"{run.placement} puts experts where it does whatever their "
            "load: nothing would ever move", "placement: balanced, or leave rebalance_s out",
        ))  # fmt: skip
    if run.rebalance_s is not None and pool.ep == 1:
        out.append(Problem(
            f"{where}.rebalance_s", "experts are on one group of devices (ep = 1): nothing can be "
            "balanced", "ep > 1, or leave rebalance_s out",
        ))  # fmt: skip
    if run.rebalance_s is not None and run.rebalance_s < run.window_s:
        out.append(Problem(
            f"{where}.rebalance_s", f"{run.rebalance_s:g} s is less than a window of "
            f"{run.window_s:g} s: no load is known yet", f"rebalance_s: {run.window_s:g} s or more",
        ))  # fmt: skip
    out += _routing(pool, where)
    out += _moves(pool, device, where)
    return out + _offload(pool, device, graph, where)


def _routing(pool: Pool, where: str) -> list[Problem]:
    assert pool.moe is not None
    routing, out = pool.moe.routing, []
    if (routing.kind == "table") != (routing.table is not None):
        what, fix = f"is given, but kind is {routing.kind}", "kind: table"
        if routing.kind == "table":
            what, fix = "kind: table names no file", "table: weights.csv"
        out.append(Problem(f"{where}.routing.table", what, fix))
    if routing.skew and routing.kind in ("uniform", "table"):
        what = f"{routing.skew:g} says nothing of {routing.kind} weights"
        out.append(Problem(f"{where}.routing.skew", what, "kind: zipf or dirichlet"))
    return out


def _moves(pool: Pool, device: Device, where: str) -> list[Problem]:
    assert pool.moe is not None
    if pool.moe.link is not None:
        try:
            catalog.link(pool.moe.link)
        except SpecError as error:
            first = error.problems[0]
            return [Problem(f"{where}.link", f"{pool.moe.link} {first.what}", first.fix)]
    elif pool.moe.rebalance_s is not None and move_link(pool, device) is None:
        what = f"experts move between devices, and {device.name} has no link"
        return [Problem(f"{where}.link", what, "link: NAME (see forerun show link)")]
    return []


def move_link(pool: Pool, device: Device) -> str | None:
    """The link that experts move by: named, else the one between the devices of a replica."""
    assert pool.moe is not None
    domain = device.scale_up_domain or device.devices_per_node
    near = device.scale_up or device.host_link
    inside = near if pool.devices_per_replica // pool.pp <= domain else device.network
    return pool.moe.link or inside or device.network


def _offload(pool: Pool, device: Device, graph: Graph, where: str) -> list[Problem]:
    offload = pool.moe.offload if pool.moe else None
    if offload is None:
        return []
    out, where = [], f"{where}.offload"
    if device.host_link is None:
        what = f"no link of {device.name} to its host is known"
        out.append(Problem(where, what, "a device with a host_link, or leave offload out"))
    try:
        host = catalog.device(offload.host)
    except SpecError as error:
        first = error.problems[0]
        return [*out, Problem(f"{where}.host", f"{offload.host} {first.what}", first.fix)]
    if host.kind not in ("cpu", "soc"):
        what = f"{host.name} is no processor of a host but a {host.kind}"
        out.append(Problem(f"{where}.host", what, "host: epyc-9654 or xeon-8480plus"))
    if offload.tier == "nvme" and offload.nvme_bytes_per_s is None:
        what = "how fast the drives are is not known"
        out.append(Problem(f"{where}.nvme_bytes_per_s", what, "nvme_bytes_per_s: 7 GB/s"))
    if offload.tier == "dram" and offload.nvme_bytes_per_s is not None:
        what = "is given, but experts are in DRAM"
        out.append(Problem(f"{where}.nvme_bytes_per_s", what, "tier: nvme"))
    if offload.prefetch and offload.misses == "cpu":
        what = "guesses are fetched, and misses: cpu fetches nothing"
        out.append(Problem(f"{where}.prefetch", what, "misses: fetch or best"))
    outside = outside_bytes(graph) * min(pool.n_devices, device.devices_per_node)
    if offload.tier == "dram" and outside > host.hbm_bytes:
        what = (
            f"{outside / 1e9:,.0f} GB of experts are outside device memory, and {host.name} has "
            f"{host.hbm_bytes / 1e9:,.0f} GB"
        )
        out.append(Problem(where, what, "a larger in_hbm, another host, or tier: nvme"))
    return out


def outside_bytes(graph: Graph) -> float:
    """Experts of one device's share that are not in its memory."""
    total = 0.0
    for op in graph.ops:
        if isinstance(op.shape, Experts) and op.shape.resident < 1:
            whole = Experts(**{**op.shape.__dict__, "resident": 1.0}).stored_bytes
            total += op.count * whole * (1 - op.shape.resident)
    return total / graph.pp
