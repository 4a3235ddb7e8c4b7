"""`EngineFit`: what one's own benchmark says of an engine, as a file that a deployment names.

The file is YAML: host terms of the engine, factors on the parts of the cost table (see
`cost.scale`), and where they are from.  `deployment.engine.calibration` (or `--calibration FILE`)
applies it: host terms replace those the case does not give itself, factors scale the table.
A file of another schema, changed after it was written, or of another model or device is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from forerun import units
from forerun.cost.scale import Scale, scaled
from forerun.cost.table import CostTable
from forerun.errors import SpecError
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.deployment import Pool

SCHEMA = 1
KEY = "forerun_engine_fit"  # the first key of a file, its value is the schema
HOST = ("host_step_s", "host_seq_s", "host_request_s", "host_prompt_token_s")
FACTORS = ("tokens", "decode", "prefill")
AGAIN = "forerun calibrate --from BENCH.json --model MODEL --fleet DEVICE:N -o FILE"


class Source(Spec):
    """A benchmark that was read."""

    file: str
    sha256: str
    tool: str
    rows_used: int = Field(ge=0)
    rows_held_out: int = Field(ge=0)


class EngineFit(Spec):
    """Host terms and factors of one engine with one model on one device type."""

    model: str
    device: str
    tp: int = Field(default=1, ge=1)
    engine: str = ""  # "vllm", "sglang"; empty when the benchmark does not say
    engine_version: str = ""
    date: str = ""  # of the benchmark, ISO
    forerun_version: str = ""
    host_step_s: float = Field(default=0.0, ge=0)
    host_seq_s: float = Field(default=0.0, ge=0)
    host_request_s: float = Field(default=0.0, ge=0)
    host_prompt_token_s: float = Field(default=0.0, ge=0)
    tokens: float = Field(default=1.0, gt=0)
    decode: float = Field(default=1.0, gt=0)
    prefill: float = Field(default=1.0, gt=0)
    untold: tuple[str, ...] = ()  # coefficients the benchmark does not tell; they stay as they were
    #: |predicted / measured - 1| on requests or files that were not used, by figure
    error: dict[str, float] = {}
    rms: float = Field(default=0.0, ge=0)  # relative, of what was not used: sets the interval
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """What a report calls it."""
        engine = f"{self.engine} {self.engine_version}".strip() or "engine"
        return f"{engine} with {self.model} on {self.device}, calibrated {self.date}".rstrip()


def on_pool(fit: EngineFit, model: str, pool: Pool) -> Pool:
    """The pool with the fitted host terms where its engine gives none itself.

    Raises SpecError when the fit is of another model or device.
    """
    where = "deployment.engine.calibration"
    for kind, mine, theirs in (("model", fit.model, model), ("device", fit.device, pool.device)):
        if mine != theirs:
            what = f"{pool.engine.calibration} is of {kind} {mine}, and this is {theirs}"
            fix = f"calibrate from a benchmark of {theirs}, or leave --calibration out"
            raise SpecError.one(where, what, fix)
    given = pool.engine.model_fields_set
    update = {name: getattr(fit, name) for name in HOST if name not in given}
    engine = pool.engine.model_copy(update=update)
    return pool.model_copy(update={"engine": engine})


def on_table(fit: EngineFit, table: CostTable, pool: Pool) -> CostTable:
    """The table with the fitted factors; its interval is that of the error on what was held out."""
    scale = Scale(
        tokens=(fit.tokens,), decode=fit.decode, prefill=fit.prefill,
        n_rows=sum(s.rows_used for s in fit.sources), residual=fit.rms,
    )  # fmt: skip
    source = f"calibrated from {', '.join(Path(s.file).name for s in fit.sources) or 'a benchmark'}"
    out = scaled(table, scale, source=source)
    said = [f"{fit.name}: {', '.join(fit.untold)} could not be told and stay"] if fit.untold else []
    if pool.tp != fit.tp:
        said.append(f"the calibration is of tp {fit.tp}, and its factors are used at tp {pool.tp}")
    # `scaled` says "steps"; a benchmark gives requests
    kept = tuple(a for a in out.assumed if not a.startswith("times scaled to"))
    used = f"times scaled to {scale.n_rows:,} requests ({source})"
    return replace(out, assumed=(*kept, used, *said))


def ids(pools: Iterable[Pool]) -> list[str]:
    """The calibrations that pools name: file and content hash, for a provenance."""
    named = dict.fromkeys(pool.engine.calibration for pool in pools)
    return [f"{path} {load(path).content_hash()}" for path in named if path]


def save(fit: EngineFit, path: str | Path) -> None:
    """Write the file.  Raises SpecError where it cannot be written."""
    try:
        Path(path).write_text(text(fit), encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError.one(str(path), f"cannot be written: {reason}", "another path") from None


def text(fit: EngineFit) -> str:
    """The file's text."""
    import io

    from ruamel.yaml import YAML

    data = {KEY: SCHEMA, "digest": _digest(_plain(fit))} | _plain(fit)
    out = io.StringIO()
    writer = YAML()
    writer.width = 100
    writer.dump(data, out)
    head = "# Written by forerun calibrate.  Use: forerun simulate CASE --calibration THIS_FILE\n"
    return head + out.getvalue()


@functools.lru_cache(maxsize=32)
def _load(path: str, _stamp: int) -> EngineFit:
    source, name = yaml.read_text(path)
    root = yaml.parse(source, name)
    schema = root.value.pop(KEY, None)
    if schema is None:
        what = f"is not a calibration of an engine: it has no {KEY}"
        raise SpecError.one(name, what, AGAIN)
    if schema.plain() != SCHEMA:
        what = f"has schema {schema.plain()}, this version of Forerun reads {SCHEMA}"
        raise SpecError.one(schema.where, what, AGAIN)
    digest = root.value.pop("digest", None)
    try:
        fit = EngineFit.model_validate(root.plain(), context={"file": True})
    except ValidationError as error:
        raise SpecError(*problems_of(error, root, EngineFit)) from None
    if digest is None or digest.plain() != _digest(_plain(fit)):
        what = "is damaged, or was changed after it was written"
        raise SpecError.one(name, what, AGAIN)
    return fit


def load(path: str | Path) -> EngineFit:
    """The fit in a file.

    Raises SpecError for a file that is missing, not such a file, of another schema, damaged, or
    changed after it was written.
    """
    stamp = Path(path).stat().st_mtime_ns if Path(path).is_file() else 0
    return _load(str(path), stamp)


def _plain(fit: EngineFit) -> dict[str, Any]:
    """The fields as they stand in a file: quantities with units, six digits, defaults too."""
    data = fit.model_dump(mode="json")
    for name in HOST:
        data[name] = units.show(data[name], "time", digits=6)
    for name in (*FACTORS, "rms"):
        data[name] = float(f"{data[name]:.6g}")
    data["error"] = {name: float(f"{value:.4g}") for name, value in data["error"].items()}
    return data


def _digest(data: dict[str, Any]) -> str:
    canonical = json.dumps(data, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
