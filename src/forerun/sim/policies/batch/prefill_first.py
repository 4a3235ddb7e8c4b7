"""Prompts first, whole, in steps of their own (vLLM V0): decodes stall while prompts are computed.

Source: vLLM before V1 (`Scheduler._schedule_default` without chunked prefill).
"""

from forerun.sim.core.signatures import IF_NO_PREFILL


def prefill_first(replica, engine, params):
    return IF_NO_PREFILL, engine.max_tokens, 1, engine.max_seqs
