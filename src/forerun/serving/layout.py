"""Which model in which formats on which pools a row of `forerun predict serving` means.

Tables write layouts in several ways; each reading that is chosen is said in `assumed`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from forerun import catalog
from forerun.errors import SpecError
from forerun.ops.lower import lower
from forerun.ops.precision import NEVER, ON_LOADING
from forerun.serving.cells import dtype, whole
from forerun.spec.deployment import Pool
from forerun.spec.dtype import bits
from forerun.spec.model import Model, Moe, Quantization

PHASES = ("prefill", "decode")
#: formats that name the same width with other scales: the checkpoint's own is meant
ALIKE = ({"fp8", "fp8_block", "mxfp8"}, {"nvfp4", "mxfp4"})
#: columns of a layout, which of its own pools have with a phase before the name
LAYOUT = {"tp": "tp", "pp": "pp", "dp": "dp_attention", "moe_tp": "moe_tp", "moe_ep": "moe_ep"}
#: those that only pools of their own have
OWN = ("replicas", "batch")
OWN_COLUMNS = tuple(f"{phase}_{name}" for phase in PHASES for name in (*LAYOUT, *OWN))
COLUMNS = (*LAYOUT.values(), *OWN_COLUMNS)
_QUANTISED = re.compile(
    r"[-_](nvfp4|mxfp4|fp4|fp8|w8a8|w4a16|int8|int4|awq|gptq)([-_].*)?$", re.IGNORECASE
)


def model_of(name: str, assumed: list[str]) -> Model:
    """The model of a name; a quantised copy stands for what it was made from."""
    tried = [name, name.rsplit("/", 1)[-1]]
    tried.append(_QUANTISED.sub("", tried[-1]))
    for i, one in enumerate(dict.fromkeys(tried)):
        try:
            found = catalog.model(one)
        except SpecError as error:
            if i == 0:
                first = error
            continue
        if i:
            assumed.append(f"{name} is taken to be {found.name}")
        return found
    raise first


def formats_of(
    row: Mapping[str, str], model: Model, assumed: list[str]
) -> tuple[Model, str | None]:
    """(the model, with experts in a format of their own where the row gives one; the format of the
    weights, None for the checkpoint's own)."""
    stored = model.quantization
    own = stored.weights if stored else model.dtype
    asked = _narrower(dtype(row, "dtype"), own)
    if asked is None and dtype(row, "dtype") not in (None, own):
        assumed.append(f"weights as in the checkpoint, {own}")
    wanted = dtype(row, "moe_dtype")
    if wanted is None:
        return model, asked
    if not any(isinstance(group.ffn, Moe) for group in model.layers):
        if wanted not in (asked, own):
            assumed.append(f"moe_dtype {wanted} says nothing of {model.name}, which has no experts")
        return model, asked
    has = asked or (dict(stored.by_part).get("experts", own) if stored else own)
    if wanted == has or _are_alike(wanted, has):
        return model, asked
    if bits(wanted) > bits(has):
        assumed.append(f"experts are {has}, not {wanted}, which is wider")
        return model, asked
    return _with_experts(model, asked, wanted), None


def _narrower(asked: str | None, own: str) -> str | None:
    """The asked format where it is another and its elements are no wider than the checkpoint's."""
    if asked is None or asked == own or _are_alike(asked, own):
        return None
    return None if bits(asked) > bits(own) else asked


def _are_alike(a: str, b: str) -> bool:
    return any(a in group and b in group for group in ALIKE)


@lru_cache(maxsize=64)
def _with_experts(model: Model, weights: str | None, experts: str) -> Model:
    """The model as a checkpoint whose experts are in a format of their own."""
    stored = model.quantization
    if weights is None and stored is not None:
        others = tuple(pair for pair in stored.by_part if pair[0] != "experts")
        changed = stored.model_copy(update={"by_part": (*others, ("experts", experts))})
    else:
        width = weights or model.dtype
        kept = tuple(sorted((ON_LOADING if weights else NEVER) - NEVER))
        changed = Quantization(
            weights=width, activations=width, kept=kept, by_part=(("experts", experts),)
        )  # fmt: skip
    return model.model_copy(update={"quantization": changed})


def pools_of(
    row: Mapping[str, str], mode: str, model: Model, common: Mapping[str, str | None],
    assumed: list[str],
) -> tuple[Pool, ...]:  # fmt: skip
    """One pool, or the prefill and the decode pool."""
    cells = tuple((name, cell) for name in COLUMNS if (cell := row.get(name, "")))
    pools, notes = _pools_of(cells, mode, model, tuple(common.items()))
    assumed += notes
    return pools


@lru_cache(maxsize=256)
def _pools_of(
    cells: tuple[tuple[str, str], ...], mode: str, model: Model,
    common: tuple[tuple[str, str | None], ...],
) -> tuple[tuple[Pool, ...], list[str]]:  # fmt: skip
    """(pools, what is assumed of them): many rows of a table are of one layout."""
    row, notes = dict(cells), list[str]()
    unused = OWN_COLUMNS if mode == "agg" else LAYOUT.values()
    given = [name for name in unused if whole(row, name) is not None]
    if given:
        notes.append(f"{', '.join(given)} say nothing of mode {mode}")
    if mode == "agg":
        return (_pool(row, "", model, dict(common), notes),), notes
    return tuple(_phase_pool(row, phase, model, dict(common), notes) for phase in PHASES), notes


def _phase_pool(
    row: Mapping[str, str], phase: str, model: Model, common: Mapping[str, str | None],
    assumed: list[str],
) -> Pool:  # fmt: skip
    replicas = whole(row, f"{phase}_replicas")
    if replicas is None:
        raise SpecError.one(
            f"{phase}_replicas", "is not given, so the load of a worker is not known",
            "prefill_replicas and decode_replicas",
        )  # fmt: skip
    pool = _pool(row, f"{phase}_", model, common, assumed)
    return pool.model_copy(update={"name": phase, "replicas": replicas})


def _pool(
    row: Mapping[str, str], prefix: str, model: Model, common: Mapping[str, str | None],
    assumed: list[str],
) -> Pool:  # fmt: skip
    """The layout of one pool.  Tensor parallelism that the model's shapes forbid is taken as
    attention data parallelism, which is how engines spread a model that wide."""
    names = {name: f"{prefix}{name}" if prefix else plain for name, plain in LAYOUT.items()}
    tp, pp = whole(row, names["tp"]) or 1, whole(row, names["pp"]) or 1
    dp = whole(row, names["dp"]) or 1
    if dp > 1 and tp > 1:
        tp, dp = _groups(tp, dp, names, assumed)
    wide = tp * dp
    ep = _spread(row, names, wide, model, assumed)
    tried = [(tp, dp, ep, 0), (1, wide, wide, 0), (1, wide, wide, _spare(model, wide))]
    for i, (t, d, e, spare) in enumerate(tried):
        pool = Pool.model_validate(
            {**common, "tp": t, "pp": pp, "dp": d, "ep": e, "redundant_experts": spare}
        )
        try:
            _can_be_cut(model, pool)
        except SpecError:
            if i + 1 == len(tried):
                raise
            continue
        if i:
            assumed.append(
                f"{model.name} cannot be cut {tp} ways: attention is data parallel over {d} "
                f"devices and experts are spread over them"
                + (f", {spare} of them twice" if spare else "")
            )
        return pool
    raise AssertionError("unreachable")


def _groups(tp: int, dp: int, names: Mapping[str, str], assumed: list[str]) -> tuple[int, int]:
    """(devices of a group, groups): `tp` is the width of the whole replica where there are groups
    of attention, as published tables write it."""
    n = max(tp, dp)
    if n % dp:
        what = f"{tp} devices do not make {dp} groups of attention"
        fix = f"{names['tp']}: {-(-tp // dp) * dp}, the width of the whole replica"
        raise SpecError.one(f"{names['tp']}, {names['dp']}", what, fix)
    assumed.append(
        f"{names['tp']} {tp} with {names['dp']} {dp} is read as {n} devices a replica, {dp} groups "
        f"of attention of {n // dp} each"
    )
    return n // dp, dp


def _spread(
    row: Mapping[str, str], names: Mapping[str, str], wide: int, model: Model, assumed: list[str]
) -> int:
    """Devices that experts are spread over; each is cut over the rest of the replica's."""
    cut, ep = whole(row, names["moe_tp"]), whole(row, names["moe_ep"])
    if not any(isinstance(group.ffn, Moe) for group in model.layers):
        if (cut or 1) > 1 and cut != wide:
            assumed.append(f"{names['moe_tp']} says nothing of {model.name}, which has no experts")
        return min(ep or 1, wide)
    if ep is None and cut is not None and wide % cut == 0:
        return wide // cut
    found = min(ep or 1, wide)
    if cut is not None and cut * found != wide:
        assumed.append(
            f"experts are spread over {found} and cut over {max(1, wide // found)} devices, which "
            f"{names['moe_tp']} {cut} contradicts"
        )
    return found


@lru_cache(maxsize=1024)
def _can_be_cut(model: Model, pool: Pool) -> bool:
    """True; raises SpecError where the layout is impossible."""
    lower(model, pool)
    return True


def _spare(model: Model, n_devices: int) -> int:
    """Copies of experts that let every device hold as many."""
    counts = [g.ffn.n_experts for g in model.layers if isinstance(g.ffn, Moe)]
    return -max(counts) % n_devices if counts else 0
