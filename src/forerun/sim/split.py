"""Whether pools can do a request's parts one after another: checks before a run starts."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.errors import Problem, SpecError
from forerun.sim.setup import Served


def check_widths(pools: Sequence[Served]) -> None:
    """Raises SpecError where a step has fewer tokens than sequences."""
    problems = [
        Problem(
            f"deployment.pools.{served.pool.name}.engine.max_num_batched_tokens",
            f"{served.pool.engine.max_num_batched_tokens} tokens a step cannot give each of "
            f"{served.pool.engine.max_num_seqs} sequences one",
            f"max_num_seqs: {served.pool.engine.max_num_batched_tokens}, or more tokens",
        )
        for served in pools
        if served.seats > served.budget
    ]
    if problems:
        raise SpecError(*problems)


def check_roles(pools: Sequence[Served]) -> None:
    """Raises SpecError where prompts or answers have nobody to compute them, or no way between."""
    where = "deployment.pools"
    roles = {served.pool.role for served in pools}
    problems = []
    if roles == {"prefill"} or roles == {"decode"}:
        missing = "decode" if roles == {"prefill"} else "prefill"
        problems.append(
            Problem(where, f"no pool has the role {missing}", f"a pool with role: {missing}")
        )
    if "prefill" in roles:
        problems += [
            Problem(
                f"{where}.{served.pool.name}.link",
                f"KV moves between pools, and {served.pool.device} has no network link",
                "link: NAME (see forerun list links)",
            )
            for served in pools
            if served.port_bytes_per_s <= 0
        ]
    if problems:
        raise SpecError(*problems)


def check_hashes(pools: Sequence[Served], hash_tokens: int) -> None:
    """Raises SpecError where a prefix block is not a whole number of KV blocks."""
    problems = [
        Problem(
            f"deployment.pools.{served.pool.name}.engine.block_tokens",
            f"{served.pool.engine.block_tokens} does not divide the {hash_tokens} tokens of a "
            "prefix block of the trace",
            "a divisor of it, or prefix_caching: false",
        )
        for served in pools
        if served.pool.engine.prefix_caching and hash_tokens % served.pool.engine.block_tokens
    ]
    if problems:
        raise SpecError(*problems)
