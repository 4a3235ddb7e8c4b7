"""Which parallel layouts are impossible, and which work but not as one may think."""

from __future__ import annotations

from forerun.errors import Problem
from forerun.ops.precision import formats
from forerun.spec.deployment import Pool
from forerun.spec.device import Device
from forerun.spec.dtype import MATH
from forerun.spec.model import Dense, Gqa, Linear, Mla, Model, Moe


def divisors(n: int, *, limit: int = 64) -> list[int]:
    """Numbers up to limit that divide n."""
    return [i for i in range(1, min(n, limit) + 1) if n % i == 0]


def _either(values: list[int], near: int) -> str:
    """The four values nearest to `near`, as "2, 4 or 8"."""
    some = sorted(sorted(values, key=lambda v: abs(v - near))[:4])
    return (
        " or ".join([", ".join(map(str, some[:-1])), str(some[-1])]) if some[1:] else str(some[0])
    )


def check_layout(model: Model, pool: Pool) -> list[Problem]:
    """What makes a layout impossible for a model, on any device."""
    where = f"deployment.{pool.name}"
    out: list[Problem] = []
    tp = pool.tp
    splits: dict[str, int] = {}
    for group in model.layers:
        mixer, ffn = group.mixer, group.ffn
        if isinstance(mixer, (Gqa, Mla)):
            splits[f"{mixer.n_heads} attention heads"] = mixer.n_heads
        if isinstance(mixer, Gqa):
            K = mixer.n_kv_heads
            if K % tp and tp % K:
                good = [d for d in divisors(mixer.n_heads) if K % d == 0 or d % K == 0]
                out.append(Problem(
                    f"{where}.tp",
                    f"{tp} neither divides nor is a multiple of {K} KV heads of {model.name}",
                    f"tp = {_either(good, tp)}",
                ))  # fmt: skip
        if isinstance(mixer, Linear):
            splits[f"{mixer.n_heads} {mixer.kind} heads"] = mixer.n_heads
        if isinstance(ffn, Dense):
            splits[f"a feed-forward width of {ffn.inter}"] = ffn.inter
        if isinstance(ffn, Moe):
            out += _check_moe(model, pool, ffn, where)
    for what, size in splits.items():
        if size % tp:
            good = [d for d in divisors(size) if all(s % d == 0 for s in splits.values())]
            fix = f"tp = {_either(good, tp)}"
            out.append(Problem(f"{where}.tp", f"{tp} does not divide {what} of {model.name}", fix))
    if pool.pp > model.n_layers:
        out.append(Problem(
            f"{where}.pp", f"{pool.pp} stages for {model.n_layers} layers of {model.name}",
            f"pp <= {model.n_layers}",
        ))  # fmt: skip
    if pool.ep > 1 and not any(isinstance(g.ffn, Moe) for g in model.layers):
        out.append(Problem(f"{where}.ep", f"{model.name} has no experts to spread", "ep = 1"))
    return list(dict.fromkeys(out))


def _check_moe(model: Model, pool: Pool, ffn: Moe, where: str) -> list[Problem]:
    stage = pool.tp * pool.dp * pool.cp
    out = []
    if pool.ep > 1 and stage % pool.ep:
        out.append(Problem(
            f"{where}.ep",
            f"{pool.ep} does not divide the {stage} devices of a stage (tp x dp x cp)",
            f"ep = {_either(divisors(stage, limit=stage), pool.ep)}",
        ))  # fmt: skip
    held = ffn.n_experts + pool.redundant_experts
    if held % pool.ep:
        good = [d for d in divisors(stage, limit=stage) if held % d == 0]
        more = -held % pool.ep + pool.redundant_experts
        out.append(Problem(
            f"{where}.ep", f"{pool.ep} does not divide {held} experts of {model.name}",
            f"ep = {_either(good, pool.ep)}; or redundant_experts = {more}",
        ))  # fmt: skip
    width = stage // pool.ep if pool.ep and stage % pool.ep == 0 else 1
    if ffn.inter % width:
        fits = [
            e for e in divisors(stage, limit=stage)
            if held % e == 0 and ffn.inter % (stage // e) == 0
        ]  # fmt: skip
        out.append(Problem(
            f"{where}.ep",
            f"an expert of width {ffn.inter} of {model.name} cannot be cut in {width} "
            f"(tp x dp x cp / ep)",
            f"ep = {_either(fits, pool.ep)}" if fits else "fewer devices a replica",
        ))  # fmt: skip
    return out


def check_parallel(model: Model, pool: Pool, device: Device) -> list[Problem]:
    """What makes a pool impossible, each with its repair; empty when it can run."""
    where = f"deployment.{pool.name}"
    out = check_layout(model, pool)
    n = pool.devices_per_replica
    if n > 1 and not (device.scale_up or device.host_link or device.network):
        out.append(Problem(
            f"{where}.tp", f"{n} devices a replica, but no link of {device.name} is known",
            "one device a replica (tp = pp = dp = cp = 1), or name scale_up in the device",
        ))  # fmt: skip
    domain = device.scale_up_domain or device.devices_per_node
    if n > domain and not device.network:
        out.append(Problem(
            f"{where}",
            f"{n} devices a replica exceed the {domain} of one {device.name} domain, and the "
            f"device names no network",
            f"at most {domain} devices a replica, or name `network` in the device",
        ))  # fmt: skip
    f = formats(model, pool)
    peaks = device.peak_flop_per_s
    if not peaks:
        out.append(Problem(f"device.{device.name}.peak_flop_per_s", "no peak is known", "name one"))
    elif math_format(device, f.weights) is None:
        out.append(Problem(
            f"{where}.dtype", f"{device.name} has no arithmetic for {f.weights} nor a wider format",
            f"dtype = {_names([d for d in ('bf16', 'fp16', 'fp32') if d in peaks])}",
        ))  # fmt: skip
    return out


def _names(names: list[str]) -> str:
    return " or ".join(names) or "another device"


#: what a format is multiplied in when the device has no units for it, in order of preference
_WIDER = {
    "fp4": ("bf16", "fp16", "fp32"), "fp6": ("bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"), "int8": ("bf16", "fp16", "fp32"),
    "int4": ("int8", "bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"), "fp16": ("bf16", "fp32"), "tf32": ("fp32",), "fp32": (),
    "fp64": (),
}  # fmt: skip


def math_format(device: Device, dtype: str) -> str | None:
    """The format a device multiplies this weight format in: its own, a wider one, or None.

    fp4 falls to 16 bits, not to fp8: kernels for 4-bit weights on devices without fp4 units
    (Marlin) expand to the activations' 16-bit format.
    """
    wanted = MATH.get(dtype, dtype)
    peaks = device.peak_flop_per_s
    if wanted in peaks:
        return wanted
    return next((w for w in _WIDER[wanted] if w in peaks), None)


def notes_parallel(model: Model, pool: Pool, device: Device) -> list[str]:
    """What works, but differs from what one may expect; sentences for `assumed`."""
    out: list[str] = []
    f = formats(model, pool)
    for dtype in dict.fromkeys((f.weights, f.base)):
        used, wanted = math_format(device, dtype), MATH.get(dtype, dtype)
        if used and used != wanted:
            out.append(
                f"{device.name} has no {wanted} arithmetic: {dtype} products run in {used}"
                + (", weights stay small in memory" if dtype not in ("bf16", "fp16") else "")
            )
    domain = device.scale_up_domain or device.devices_per_node
    if pool.tp > domain:
        out.append(
            f"tp = {pool.tp} exceeds the {domain} devices of one {device.name} domain: every "
            f"layer's all-reduce crosses the network"
        )
    for group in model.layers:
        if isinstance(group.mixer, Gqa) and pool.tp > group.mixer.n_kv_heads:
            out.append(
                f"tp = {pool.tp} exceeds {group.mixer.n_kv_heads} KV heads: each is kept on "
                f"{pool.tp // group.mixer.n_kv_heads} devices"
            )
            break
    if pool.tp > 1 and any(isinstance(g.mixer, Mla) for g in model.layers):
        out.append("the latent KV cache is kept whole on every tensor-parallel device")
    return out
