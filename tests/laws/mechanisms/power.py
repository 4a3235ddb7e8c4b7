"""What devices may draw: clocks, and a budget of those that are fed together."""

from __future__ import annotations

from mechanisms import Case, Mechanism, every_pool

QUICK = {
    "levels": [1.0, 0.8, 0.6, 0.3], "period_s": "50 ms", "window_s": "60 ms", "delay_s": "40 ms",
    "act_s": "30 ms", "brake_s": "10 ms",
}  # fmt: skip


def row(policy: str, watts_a_device: float | None = None, **more):
    """A budget for all devices; the name comes late, when there are all of them."""

    def change(case: Case) -> None:
        said = {"policy": policy, **QUICK, **more}
        if watts_a_device is not None:
            n = sum(
                pool["replicas"] * pool.get("pp", 1) * pool.get("dp", 1)
                for pool in case["deployment"]["pools"]
            )
            said["budget_w"] = f"{watts_a_device * n} W"
        case["deployment"]["power"] = said

    return change


MECHANISMS = [
    Mechanism("row budget", row("row_budget", 400), row("row_budget", 1e6), slot="power"),
    Mechanism("slack in clocks", row("slack", tpot_s="20 ms", ttft_s="1 s"), row("watch"),
              slot="power"),
    Mechanism("a fixed clock", every_pool(power={"clock_hz": "1.2 GHz"}),
              every_pool(power={"priority": "high"})),
]  # fmt: skip
