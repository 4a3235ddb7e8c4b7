"""Small fleets whose replicas compute prompts and answers on the same devices."""

from __future__ import annotations

from dataclasses import replace

from fleets import pool
from seeing import encoder
from serving import table

from forerun.sim.control.slow import stretched


def lanes(
    *, replicas=1, levels=((2.0, 1.5),), beside=1.7, switch_s=0.0, name="g", bytes_per_s=0.0, **how
):
    """Rows of one pool: of each level the prompts' and the answers', alone and beside each other.

    levels : how many times as long as on all of the device (prompts, answers) takes alone.
    bytes_per_s : of the link; none without.
    """
    how = {"n_blocks": 30, "costs": table(), **how}
    rows = []
    for level, factors in enumerate(levels):
        for k, (role, factor) in enumerate(zip(("prefill", "decode"), factors, strict=True)):
            for busy, more in enumerate((1.0, beside)):
                one = pool(role, f"{name} {role} {level}", **how)
                here = replicas if level == 0 and busy == 0 else 0
                rows.append(
                    replace(
                        one,
                        pool=one.pool.model_copy(update={"replicas": here}),
                        table=stretched(one.table, factor * more),
                        block=name,
                        lane=4 * level + 2 * k + busy,
                        port_bytes_per_s=bytes_per_s,
                        switch_s=switch_s,
                    )
                )
    return rows


LINK = 2e6


def devices():
    """Two devices with lanes, three that are tight, some beside pools of every role."""
    two = lanes(replicas=2, bytes_per_s=LINK)
    return {
        "two": two,
        "tight": lanes(replicas=3, n_blocks=26, bytes_per_s=LINK),
        "beside prompts": [*two, pool("prefill", "p", n_blocks=26)],
        "beside answers": [
            *two,
            pool("prefill", "p", n_blocks=26),
            pool("decode", "d", n_blocks=30),
        ],
        "beside all": [*lanes(bytes_per_s=LINK), pool(n_blocks=26, name="other")],
    }


def seeing(rows, *, flat=3e-3, beside=1.4):
    """The same rows, each lane of prompts with an encoder, alone and beside answers."""
    mine = [p for p, one in enumerate(rows) if one.block is not None and one.pool.role == "prefill"]
    more, out = [], list(rows)
    for k, p in enumerate(mine):
        one = encoder(n_blocks=0, replicas=1, name=f"encoder {k}", flat=flat)
        factor = (2.0 + rows[p].lane // 4) * (beside if rows[p].lane % 2 else 1.0)
        idle = one.pool.model_copy(update={"replicas": 0})
        more.append(replace(one, pool=idle, table=stretched(one.table, factor)))
        out[p] = replace(rows[p], encoder=len(rows) + k)
    return [*out, *more]
