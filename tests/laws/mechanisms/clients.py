"""How requests come: patience, second copies, closed loops, workflows."""

from __future__ import annotations

from mechanisms import Case, Mechanism, part


def closed(case: Case) -> None:
    case["traffic"].pop("rate_per_s")
    case["traffic"] |= {"concurrency": 10, "think_s": "20 ms"}


def workflows(case: Case) -> None:
    traffic = case["traffic"]
    del traffic["isl"], traffic["osl"]
    traffic["n_requests"] = 8
    nodes = {
        "plan": {"isl": 200, "system": 64, "osl": 12},
        "act": {"after": "plan", "extends": "plan", "isl": 64, "osl": 8, "repeat": 2,
                "delay": "30 ms"},
        "ask": {"after": "act", "copies": 2, "isl": 150, "system": 64, "osl": 10},
        "write": {"after": "ask", "extends": "act", "isl": 32, "osl": 16},
    }  # fmt: skip
    traffic["workflow"] = {"nodes": nodes, "block_tokens": 32}


def questions(case: Case) -> None:
    asked = {"topics": 5, "questions": 2, "wordings": 2, "skew": 0.5}
    case["traffic"]["questions"] = [
        {"category": "help", "share": 0.7, **asked}, {"category": "chat", "share": 0.3, **asked},
    ]  # fmt: skip


def kept_answers(case: Case, **how) -> None:
    questions(case)
    categories = {"chat": {"ttl_s": "100 ms"}}
    case["deployment"]["response_cache"] = {
        "threshold": 0.8, "quota": 8, "categories": categories, **how
    }  # fmt: skip


def learned(case: Case) -> None:
    kept_answers(case)
    cache = case["deployment"]["response_cache"]
    del cache["threshold"]
    cache["max_error"] = 0.6


MECHANISMS = [
    Mechanism("hedging", part("traffic", client={"hedge_s": "150 ms"}),
              part("traffic", client={"hedge_s": "1000 s"})),
    Mechanism("retries and patience", part("traffic", client={
        "first_token_s": "100 ms", "give_up_s": "700 ms", "retries": 2, "backoff_s": "50 ms",
        "retry_on": ["rejection", "timeout", "failure"],
    }), part("traffic", client={"give_up_s": "1000 s"})),
    Mechanism("closed loop", closed),
    Mechanism("response cache", kept_answers, slot="answers"),
    Mechanism("learned thresholds", learned, slot="answers"),
    Mechanism("workflows", workflows),
]  # fmt: skip
