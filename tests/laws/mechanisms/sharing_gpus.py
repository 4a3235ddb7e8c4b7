"""What runs on one GPU beside each other: prompts and answers, adapters, fine-tuning."""

from __future__ import annotations

from mechanisms import Case, Mechanism, engines, every_pool


def lanes(**more):
    return every_pool(sm_share={"prefill": 0.6, "decode": 0.4, **more})


def adapters(**how):
    def change(case: Case) -> None:
        case["traffic"]["adapters"] = {"n": 6, "skew": 0.8, "share": 0.8}
        case["deployment"]["adapters"] = {"ranks": [8, 16], "max_loras": 2, "slots": 3, **how}

    return change


def tuning(policy, **params):
    return engines(
        tuning={"tokens": 20_000, "sequence": 256, "backward": 1},
        tune={"name": policy, "params": params},
    )


MECHANISMS = [
    Mechanism("lanes on one GPU", lanes(), slot="lanes"),
    Mechanism("lanes by a policy", lanes(policy="slo_driven", levels=[0.2, 0.4, 0.7],
                                         every_s="50 ms", ttft_s="100 ms", tpot_s="8 ms"),
              slot="lanes"),
    Mechanism("adapters", adapters(), slot="adapters"),
    Mechanism("adapters in order", adapters(load="in_step", wait="in_order", kernel="gathered"),
              slot="adapters"),
    Mechanism("adapters in KV blocks", adapters(memory="paged", slots=None), slot="adapters"),
    Mechanism("tuning in what steps leave", tuning("slack", step_s=0.05), tuning("fixed", tokens=0),
              slot="tuning"),
    Mechanism("tuning when idle", tuning("idle_only"), slot="tuning"),
]  # fmt: skip
