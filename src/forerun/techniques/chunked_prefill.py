"""Computes prompts in chunks beside running decodes, within a token budget a step.

Each step takes one token of every running decode first and fills what is left of the budget with
the next chunk of a prompt, so no decode ever waits for a whole prompt ("stall-free batching").

Source : Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve,
         OSDI 2024, algorithm 3; the authors' budgets are 512 (strict SLO) and 2048 (relaxed).
Helps  : the tail of gaps between tokens, and so the load that a bound on it allows.
Costs  : later chunks read the keys and values of earlier ones again; small chunks use the device
         less well; first tokens of long prompts come later than on an idle engine.
Assumes: a budget of its own for every engine of the deployment, the same at all times.
Ignores: bubbles between pipeline stages (the simulator's stages have none), prefix caching.
"""

from __future__ import annotations

from forerun.errors import SpecError
from forerun.spec.case import Case
from forerun.spec.deployment import Deployment, Policy, Pool
from forerun.techniques._seams import Edit, Knob

PAPERS = ("sarathi-serve",)

KNOBS = {
    "chunk_tokens": Knob(
        default=512, neutral=0, low=0, high=1 << 20, whole=True, unit="token",
        meaning="most tokens a step computes, decodes included; 0 leaves the engine as it is",
    )
}  # fmt: skip

CONFLICTS: dict[str, str] = {}

_MIXING = ("chunked", "decode_first")


def needs(case: Case) -> list[str]:
    """Why chunking has nothing to give here."""
    out = []
    for pool in case.deployment.pools if case.deployment else ():
        if pool.engine.batch.name in _MIXING:
            out.append(
                f"pool {pool.name} already puts chunks beside decodes ({pool.engine.batch.name}): "
                "only the budget would change"
            )
    if case.slo.itl_s is None and case.slo.tpot_s is None:
        out.append("no bound on the time between tokens is asked for, and that is what it improves")
    osl = case.traffic.osl
    if osl is not None and osl.mean < 2:
        out.append("answers have one token: there are no decodes that a prompt could hold up")
    return out


def baseline(deployment: Deployment) -> Deployment:
    """vLLM of the paper's time: whole prompts first, in steps of their own."""
    return _each(deployment, batch=Policy(name="prefill_first"), reserve="prompt")


def edit(deployment: Deployment, *, chunk_tokens: float) -> Edit:
    """Every engine batches decodes first, then chunks up to the budget."""
    if chunk_tokens == 0:
        return Edit(deployment)
    for pool in deployment.pools:
        most = pool.engine.max_num_batched_tokens
        if chunk_tokens > most:
            what = f"pool {pool.name} computes {most} tokens a step at most"
            fix = f"chunk_tokens: {most}, or max_num_batched_tokens: {chunk_tokens:g}"
            raise SpecError.one("technique chunked_prefill.chunk_tokens", what, fix)
    policy = Policy(name="decode_first", params={"chunk_tokens": float(chunk_tokens)})
    return Edit(_each(deployment, batch=policy))


def _each(deployment: Deployment, **engine: object) -> Deployment:
    def changed(pool: Pool) -> Pool:
        return pool.model_copy(update={"engine": pool.engine.model_copy(update=engine)})

    return deployment.model_copy(update={"pools": tuple(changed(p) for p in deployment.pools)})
