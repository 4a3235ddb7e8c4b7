"""What changes while a fleet runs: replicas that come and go, what fails, who asks experts."""

from __future__ import annotations

import copy

from mechanisms import Case, Mechanism, every_pool, part

COLD = {"allocate_s": "50 ms", "warm_s": "30 ms"}


def scale(**rule):
    usual = {
        "metric": "outstanding",
        "target": 3,
        "period_s": "50 ms",
        "scale_in_delay_s": "200 ms",
    }
    return every_pool(autoscale={**usual, **rule}, cold_start=COLD)


def fault(**said):
    def change(case: Case) -> None:
        case.setdefault("faults", []).append(copy.deepcopy(said))
        every_pool(cold_start=COLD)(case)

    return change


def never(**said):
    return fault(**{**said, "at_s": ["100 h"], "mttr_s": "1 s"})


def experts(case: Case, *, drift=0.5, skew=0.8) -> None:
    run = {
        "routing": {"kind": "zipf", "skew": skew, "drift": drift, "correlation_s": "1 s"},
        "placement": "balanced", "rebalance_s": "300 ms", "window_s": "100 ms",
    }  # fmt: skip
    every_pool(dp=2, ep=2, moe=run)(case)


def offload(case: Case) -> None:
    every_pool(moe={"routing": {"kind": "zipf", "skew": 0.7}, "offload": {"in_hbm": 0.9}})(case)


def rebalance(policy, **params):
    return part(
        "deployment", rebalance={"policy": {"name": policy, "params": params}, "period_s": "30 ms"}
    )


def worse_links(case: Case) -> None:
    """Where nothing else moves KV, notice of a loss does."""
    fault(effect="link", mtbf_s="200 ms", mttr_s="200 ms", factor=8)(case)
    fault(effect="loss", mtbf_s="700 ms", mttr_s="100 ms", notice_s="100 ms", on_notice="move")(
        case
    )


MECHANISMS = [
    Mechanism("autoscaling", scale(min_replicas=1), scale(min_replicas=2), slot="autoscale"),
    Mechanism("scale to zero", scale(min_replicas=0, policy="keep_alive", target=4,
                                     keep_alive_s="100 ms"), slot="autoscale"),
    Mechanism("crashes", fault(effect="crash", mtbf_s="1 s", mttr_s="100 ms"), never()),
    Mechanism("racks fail", fault(effect="crash", process="weibull", shape=0.7, mtbf_s="1.2 s",
                                  mttr_s="150 ms", per="group", group_replicas=2), never()),
    Mechanism("migration", fault(effect="loss", mtbf_s="700 ms", mttr_s="200 ms",
                                 notice_s="100 ms", on_notice="move"), never(effect="loss")),
    Mechanism("spot loss", fault(effect="loss", mtbf_s="700 ms", mttr_s="200 ms",
                                 notice_s="100 ms"), never(effect="loss")),
    Mechanism("requests lost", fault(effect="crash", mtbf_s="800 ms", mttr_s="100 ms",
                                     requests="fail"), never(requests="fail")),
    Mechanism("upgrades", fault(effect="upgrade", at_s=["200 ms"], mttr_s="50 ms",
                                notice_s="300 ms"), never(effect="upgrade")),
    Mechanism("stragglers", fault(effect="slow", mtbf_s="400 ms", mttr_s="400 ms", factor=2.5),
              never(effect="slow", factor=2.5)),
    Mechanism("worse links", worse_links),
    Mechanism("rebalancing", rebalance("even_kv", gap=0.1), rebalance("even_kv", gap=2.0)),
    Mechanism("experts that drift", experts, every_pool(moe={"routing": {}}), slot="experts"),
    Mechanism("experts on the host", offload, every_pool(moe={"offload": {"in_hbm": 1.0}})),
]  # fmt: skip
