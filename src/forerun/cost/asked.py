"""What a row must say before it can be answered, in sentences.

Sizes that a family needs, sizes that cannot be, words that mean nothing here, and columns that
contradict each other.  Columns that a row's family does not read are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from forerun.cost.families import families, family
from forerun.cost.rows import Rows
from forerun.errors import nearest
from forerun.spec.dtype import DTYPES
from forerun.spec.moe import DISTRIBUTIONS

#: columns that a family reads where they are given, besides its NEEDS and DEFAULTS
ALSO = {
    "attention_decode": ("n_kv_heads", "v_head_dim"),
    "attention_prefill": ("n_kv_heads", "v_head_dim"),
    "mla_decode": ("hidden", "q_lora_rank"),
    "mla_prefill": ("hidden", "q_lora_rank"),
    "moe": ("n_active",),
    "rowwise": ("read_bytes", "write_bytes"),
    "scan": ("n_kv_heads", "v_head_dim", "width"),
}
#: columns that may be 0; every other is a count of something that is there
NONE_OF = (
    "past", "n_decode", "past_decode", "causal", "gated", "graphs", "rope_dim", "q_lora_rank",
    "read_bytes", "write_bytes", "hidden",
)  # fmt: skip
#: (smaller, larger): the first is a part of the second
WITHIN = (("n_kv_heads", "n_heads"), ("topk", "n_experts"), ("n_nodes", "n_gpus"))


def unknown_op(op: str) -> str:
    """What to say of a row whose op no family answers."""
    known = sorted(o for f in families() for o in family(f).OPS)
    hint = nearest(op, known) if op else ""
    what = f"op {op!r} is not known" if op else "op is not given"
    return f"{what}; {hint if hint.startswith('did') else 'one of ' + ', '.join(known)}"


def lacking(x: Rows, name: str) -> np.ndarray:
    """A sentence for each row of a family that cannot be answered as it stands, str [N]."""
    out = np.full(x.n, "", dtype=object)
    absent = {column: np.isnan(x.get(column)) for column in family(name).NEEDS}
    for i in np.flatnonzero(np.logical_or.reduce(list(absent.values()))):
        columns = [column for column, mask in absent.items() if mask[i]]
        out[i] = f"{', '.join(columns)} must be given for {x.words('op')[i]}"
    for row, sentence in _wrong(x, name):
        out[row] = f"{out[row]}; {sentence}" if out[row] else sentence
    return out


def with_context(x: Rows, name: str) -> tuple[Rows, np.ndarray]:
    """The rows, and which of them say by `isl` what a decode step's `past` is, bool [N].

    The query of a step is one token, so a length of more can only be that of the context.
    """
    if "past" not in family(name).NEEDS:
        return x, np.zeros(x.n, dtype=bool)
    past, isl = x.get("past"), x.get("isl")
    said = np.isnan(past) & (isl > 1)
    return Rows(x.n, {**x.number, "past": np.where(said, isl, past)}, x.text), said


def without_windows(x: Rows) -> Rows:
    """The rows with windows of 0 where they say by a number below 0 that there is none."""
    if "window" not in x.number:
        return x
    window = np.maximum(x.number["window"], 0.0)
    return Rows(x.n, {**x.number, "window": window}, x.text)


def _wrong(x: Rows, name: str) -> Iterator[tuple[int, str]]:
    """(row, what cannot be in it)."""
    module = family(name)
    defaults = [n for n, value in module.DEFAULTS.items() if not isinstance(value, str)]
    read = dict.fromkeys((*module.NEEDS, *defaults, *ALSO.get(name, ())))
    for column in read:
        value = x.get(column)
        none = column in NONE_OF and column not in module.NEEDS
        # a window of -1 or 0 is how some say that there is none
        low = np.zeros(x.n, bool) if column == "window" else value < (0 if none else 1)
        for i in np.flatnonzero(low | np.isinf(value)):
            least = "not negative" if none or column == "window" else "at least 1"
            yield int(i), f"{column} = {value[i]:g}: must be finite and {least}"
    for part, whole in WITHIN:
        if part in read and whole in read:
            a, b = x.get(part), x.get(whole)
            for i in np.flatnonzero(a > b):
                yield int(i), f"{part} = {a[i]:g} is more than {whole} = {b[i]:g}"
    if "kv_dtype" in module.DEFAULTS:
        words = x.words("kv_dtype")
        for i in np.flatnonzero(~np.isin(words.astype(str), ["", *DTYPES])):
            yield int(i), f"kv_dtype {words[i]!r} is none of {', '.join(DTYPES)}"
    if "distribution" in module.DEFAULTS:
        words = x.words("distribution")
        strange = [w for w in sorted(set(words)) if w and not re.fullmatch(DISTRIBUTIONS, w)]
        for i in np.flatnonzero(np.isin(words.astype(str), strange)):
            kinds = "uniform, balanced, power_law_<exponent>"
            yield int(i), f"distribution {words[i]!r} is none of {kinds}"
