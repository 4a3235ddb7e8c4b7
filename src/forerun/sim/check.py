"""What pools cannot do, alone, with each other and with the requests: said before a run starts."""

from __future__ import annotations

from collections.abc import Sequence

from forerun.errors import Problem, SpecError
from forerun.sim.log import Tenant
from forerun.sim.setup import Served
from forerun.spec.requests import Requests


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
    roles = {served.pool.role for served in pools} - {"encode"}
    problems = []
    if not roles:
        what = "all pools have the role encode: nobody computes prompts and answers"
        problems.append(Problem(where, what, "a pool with role: both"))
    if roles == {"prefill"} or roles == {"decode"}:
        missing = "decode" if roles == {"prefill"} else "prefill"
        problems.append(
            Problem(where, f"no pool has the role {missing}", f"a pool with role: {missing}")
        )
    if any(one.pool.role == "prefill" and one.block is None for one in pools):
        lacking = [
            served
            for served in pools
            if served.port_bytes_per_s <= 0 and served.n_blocks > 0 and served.pool.replicas > 0
        ]
        problems += [
            Problem(
                f"{where}.{served.block or served.pool.name}.link",
                f"KV moves between pools, and {served.pool.device} has no network link",
                "link: NAME (see forerun show link)",
            )
            for served in lacking
            if served.block is None or served.pool.role == "decode"
        ]
    if problems:
        raise SpecError(*problems)


def check_lanes(pools: Sequence[Served], n_tiers: int) -> None:
    """Raises SpecError where two lanes on the same devices would have to do what they cannot."""
    problems = []
    for one in pools:
        if one.block is None or not one.pool.replicas:
            continue
        engine, where = one.pool.engine, f"deployment.pools.{one.pool.name}"
        clashes = {
            "kv_tiers": n_tiers > 0,
            "pp": one.pool.pp > 1,
            "engine.speculation": one.draft is not None,
            "engine.preemption": engine.preemption == "swap",
        }
        same = {o.encoder < 0 for o in pools if (o.block, o.pool.role) == (one.block, "prefill")}
        if len(same) > 1:
            what = "its lanes encode images for some of its rows, and not for others"
            problems.append(Problem(where, what, "an encoder for each row of prompts"))
        problems += [
            Problem(f"{where}.{name}", "cannot be combined with sm_share", "drop one of them")
            for name, clash in clashes.items()
            if clash
        ]
    if problems:
        raise SpecError(*problems)


def check_encoders(pools: Sequence[Served], again: Sequence[bool], *, cached: bool) -> None:
    """Raises SpecError for pools that encode and cannot send, or whose replicas do other things.

    again : whose order policy is asked again, by pool; cached : whether answers are given again.
    """
    problems = []
    if encodes(pools):
        problems = _beside_images(pools, again, cached)
    apart = [s for s in pools if s.pool.role == "encode" and s.n_blocks > 0]
    linked = [s for s in pools if s.pool.role in ("both", "prefill", "encode") and s.n_blocks > 0]
    for served in linked if apart else ():
        if served.port_bytes_per_s <= 0:
            where = f"deployment.pools.{served.pool.name}.link"
            what = f"embeddings move between pools, and {served.pool.device} has no network link"
            problems.append(Problem(where, what, "link: NAME (see forerun show link)"))
    for served in pools:
        if served.group is not None and (apart or served.encoder >= 0):
            where = f"deployment.pools.{served.pool.name}.models"
            what = "models that take turns cannot have images encoded"
            problems.append(Problem(where, what, "pools with one model each"))
    for served in apart:
        if served.pool.pp > 1 or served.draft is not None:
            where = f"deployment.pools.{served.pool.name}"
            what = "a pool that encodes has no pipeline stages and proposes no tokens"
            problems.append(Problem(where, what, "pp: 1 and no speculation"))
    if problems:
        raise SpecError(*list(dict.fromkeys(problems)))


def encodes(pools: Sequence[Served]) -> bool:
    """Whether somebody encodes images."""
    return any(served.encoder >= 0 or served.pool.role == "encode" for served in pools)


def _beside_images(pools: Sequence[Served], again: Sequence[bool], cached: bool) -> list[Problem]:
    """What images have not been combined with yet."""
    problems, drop = [], "text only, or drop this"
    if cached:
        what = "an answer is given again by a text, and images are no text"
        problems.append(Problem("deployment.response_cache", what, drop))
    for served, asked in zip(pools, again, strict=True):
        where = f"deployment.pools.{served.pool.name}"
        if not served.pool.replicas:
            continue
        if served.pool.role == "encode" and served.pool.engine.tuning is not None:
            what = "a pool that encodes has no model to tune"
            problems.append(Problem(f"{where}.engine.tuning", what, "tuning in other pools"))
        if asked:
            what = "what encoders compute is counted for no tenant yet"
            fix = "an order that is asked once: fcfs, priority, earliest_deadline"
            problems.append(Problem(f"{where}.engine.order", what, fix))
    return problems


def check_items(pools: Sequence[Served], requests: Requests) -> None:
    """Raises SpecError for items whose sizes are not known, or that nobody encodes."""
    n, units, tokens = requests.n_items, requests.item_units, requests.item_tokens
    if n is None or not n.any():
        return
    if units is None or tokens is None or (units[n > 0] < 1).any() or (tokens[n > 0] < 1).any():
        what = "have items, and not what the encoder computes for each and how many tokens it gives"
        raise SpecError.one("requests", what, "item_units and item_tokens, both at least 1")
    if (n * tokens >= requests.isl).any():
        what = "have items that become as many tokens as the whole prompt, or more"
        fix = "isl counts the tokens of items and one more at least"
        raise SpecError.one("requests", what, fix)
    asked = [0] if requests.model is None else sorted(set(requests.model[n > 0].tolist()))
    rows = [s for s in pools if s.pool.role == "encode"]
    encode = {s.model for s in pools if s.encoder >= 0} | {s.model for s in rows if s.n_blocks}
    for m in asked:
        if m not in encode:
            what = "have images, video or audio for a model that no pool encodes for"
            raise SpecError.one("requests", what, "a pool with role: encode, or text only")
        mine = n > 0 if requests.model is None else (n > 0) & (requests.model == m)
        largest = int(units[mine].max())
        most = max(s.budget for s in rows if s.model == m)
        if largest > most:
            what = f"show an image of {largest:,} patches, and the encoder takes {most:,} at once"
            fix = f"max_num_batched_tokens: {largest} in the engine of the pool that encodes"
            raise SpecError.one("requests", what, fix)


def check_models(pools: Sequence[Served]) -> None:
    """Raises SpecError for a model that only half of a split fleet serves."""
    problems = []
    for m in sorted({served.model for served in pools}):
        roles = {served.pool.role for served in pools if served.model == m} - {"encode"}
        missing = {"prefill": "decode", "decode": "prefill"}
        if len(roles) == 1 and roles <= missing.keys():
            name, lacks = next(p.pool.name for p in pools if p.model == m), missing[roles.pop()]
            what = f"no pool with the role {lacks} serves a model that {name} serves"
            problems.append(Problem("deployment.pools", what, f"a pool with role: {lacks}"))
    if problems:
        raise SpecError(*problems)


def check_regions(pools: Sequence[Served], way_s: Sequence[Sequence[float]]) -> None:
    """Raises SpecError where a pool is in a region that ways do not lead to, or a way is none."""
    n = len(way_s)
    if any(len(row) != n for row in way_s) or not all(0 <= s < 1e3 for row in way_s for s in row):
        what = "one way between every two regions is a square of times, 0 or more"
        raise SpecError.one("way_s", what, "seconds by region and region")
    for served in pools:
        if not 0 <= served.region < n:
            what = f"{served.pool.name} is in region {served.region}, ways lead to {n}"
            raise SpecError.one("deployment.pools", what, "way_s with a row for each region")


def check_adapters(pools: Sequence[Served]) -> None:
    """Raises SpecError where adapters meet what they cannot be combined with yet."""
    problems = []
    if all(served.adapters is None for served in pools):
        return
    for served in pools:
        where = f"deployment.pools.{served.pool.name}"
        if served.pool.pp * served.pool.dp * served.pool.cp > 1:
            what = "adapters of a replica with pp, dp or cp are not simulated yet"
            problems.append(Problem(where, what, "tp alone"))
    if problems:
        raise SpecError(*dict.fromkeys(problems))


def check_tuning(pools: Sequence[Served]) -> None:
    """Raises SpecError where fine-tuning meets what it cannot be combined with yet."""
    problems = []
    for served in pools:
        how, where = served.pool.engine.tuning, f"deployment.pools.{served.pool.name}.engine.tuning"
        if how is None:
            continue
        if served.pool.pp > 1:
            problems.append(Problem(where, "stages of a replica cannot tune yet", "pp: 1"))
        if served.draft is not None:
            problems.append(
                Problem(where, "steps that verify proposals cannot tune", "one of both")
            )
        if served.group is not None:
            what = "a replica that takes turns with models cannot tune one"
            problems.append(Problem(where, what, "a pool for each model"))
        if how.grain > served.budget:
            what = f"{how.grain} tokens at a time do not fit a step of {served.budget}"
            problems.append(Problem(where, what, f"grain: {served.budget}"))
    if problems:
        raise SpecError(*problems)


def check_caps(
    pools: Sequence[Served], hash_tokens: int, *, kept: bool = False, read: bool = False
) -> None:
    """Raises SpecError where KV that is cut would have to be shared, or was reserved whole.

    kept, read : whether requests have caps of their own, beside those of the engines.
    """
    problems = []
    for served in pools:
        engine, where = served.pool.engine, f"deployment.pools.{served.pool.name}.engine"
        capped = engine.kept_tokens or engine.attended_tokens or kept or read
        if served.block is not None and served.pool.replicas and capped:
            what = "caps on kept or attended tokens are not yet combined with sm_share"
            problems.append(Problem(where, what, "drop sm_share, or the caps"))
        if engine.kept_tokens is None and not kept:
            continue
        if hash_tokens and engine.prefix_caching:
            what = "KV that is cut to kept_tokens cannot be shared as a prefix"
            problems.append(Problem(f"{where}.prefix_caching", what, "prefix_caching: false"))
        if engine.reserve != "chunk":
            what = f"{engine.reserve} takes blocks for tokens that kept_tokens drops"
            problems.append(Problem(f"{where}.reserve", what, "reserve: chunk"))
    if problems:
        raise SpecError(*problems)


def check_reuse(pools: Sequence[Served], n_tiers: int) -> None:
    """Raises SpecError where KV of blocks is to be reused anywhere and nothing keeps it."""
    problems = []
    anywhere = [served.pool.engine.reuse == "anywhere" for served in pools]
    where = "deployment.pools.{}.engine.reuse"
    for served, wants in zip(pools, anywhere, strict=True):
        if wants and not n_tiers:
            what = "anywhere takes KV from tiers, and there are none"
            fix = "kv_tiers: [{tier: dram, capacity_bytes: 100 GB, link: pcie5-x16}]"
            problems.append(Problem(where.format(served.pool.name), what, fix))
        elif any(anywhere) and not wants:
            what = "prefix here and anywhere elsewhere: blocks would not mean the same"
            fix = "the same reuse in all pools"
            problems.append(Problem(where.format(served.pool.name), what, fix))
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


def check_drafts(pools: Sequence[Served]) -> None:
    """Raises SpecError where a step has no room for what is proposed, or no price for it."""
    problems = []
    for served in pools:
        where = f"deployment.pools.{served.pool.name}.engine.speculation"
        if served.draft is None:
            continue
        nodes, most = sum(served.draft.levels[1:]), served.budget
        if nodes + 1 > most:
            what = f"{nodes} proposed tokens and the next one do not fit a step of {most}"
            fix = f"k: {most - 1}" if len(set(served.draft.levels)) == 1 else "a smaller tree"
            problems.append(Problem(where, what, f"{fix}, or max_num_batched_tokens: {nodes + 1}"))
        if served.table.verify is None:
            what = "its cost table does not say what a step takes that verifies"
            problems.append(Problem(where, what, "price(..., queries=k + 1)"))
    if problems:
        raise SpecError(*problems)


def check_fair(pools: Sequence[Served], again: Sequence[bool]) -> None:
    """Raises SpecError where queues by tenant would have to be queues of a lane."""
    problems = []
    for served, asked in zip(pools, again, strict=True):
        where = f"deployment.pools.{served.pool.name}.engine.order"
        fix = "an order that is asked once: fcfs, priority, earliest_deadline"
        if asked and served.block is not None:
            what = "prompts and answers of a tenant are counted by two lanes apart"
            problems.append(Problem(where, what, fix))
    if problems:
        raise SpecError(*problems)


def check_weights(tenants: Sequence[Tenant], shared: bool) -> None:
    """Raises SpecError where tenants have weights and no order shares by them."""
    weighted = [tenant.name for tenant in tenants if tenant.weight != 1]
    if weighted and not shared:
        what = "is given, and no engine's order looks at what tenants were served"
        raise SpecError.one(f"tenants.{weighted[0]}.weight", what, "engine: {order: vtc}")
