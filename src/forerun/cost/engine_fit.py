"""`EngineFit`: what one's own benchmark says of an engine, as a file that a deployment names.

The file is YAML: host terms of the engine, factors on the parts of the cost table (see
`cost.scale`), and where they are from.  `deployment.engine.calibration` (or `--calibration FILE`)
applies it: host terms replace those the case does not give itself, factors scale the table.
A file of another schema, changed after it was written, or of another model or device is refused.

`of_pool`, `on_pool` and `on_table` are the one place where costs become an engine's: by such a fit,
by the profile that ships for the engine a deployment names (`engine_profile`), or not at all.
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
from forerun.cost import engine_profile
from forerun.cost.engine_profile import EngineProfile
from forerun.cost.engine_terms import FACTORS, EngineTerms
from forerun.cost.scale import scaled
from forerun.cost.table import CostTable
from forerun.errors import SpecError
from forerun.spec import yaml
from forerun.spec.base import Spec
from forerun.spec.bridge import problems_of
from forerun.spec.deployment import PROFILE, Pool

SCHEMA = 1
KEY = "forerun_engine_fit"  # the first key of a file, its value is the schema
AGAIN = "forerun calibrate --from BENCH.json --model MODEL --fleet DEVICE:N -o FILE"


class Source(Spec):
    """A benchmark that was read."""

    file: str
    sha256: str
    tool: str
    rows_used: int = Field(ge=0)
    rows_held_out: int = Field(ge=0)


class EngineFit(EngineTerms):
    """Host terms and factors of one engine with one model on one device type."""

    model: str
    device: str
    tp: int = Field(default=1, ge=1)
    engine: str = ""  # "vllm", "sglang"; empty when the benchmark does not say
    engine_version: str = ""
    date: str = ""  # of the benchmark, ISO
    forerun_version: str = ""
    host_request_s: float = Field(default=0.0, ge=0)
    host_prompt_token_s: float = Field(default=0.0, ge=0)
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


HOST = EngineFit.times()
ABOUT = ("model", "device", "tp", "engine", "engine_version", "date", "forerun_version")


def of_pool(pool: Pool) -> EngineFit | EngineProfile | None:
    """What corrects a pool's costs: the file its engine names, or the profile of that engine."""
    named = pool.engine.calibration
    if named == PROFILE:
        return engine_profile.of_runtime(pool.engine.runtime)
    return load(named) if named else None


def on_pool(fit: EngineFit | EngineProfile | None, model: str, pool: Pool) -> Pool:
    """The pool with the fitted host terms where its engine gives none itself.

    Raises SpecError when the fit is of another model or device.
    """
    if fit is None:
        return pool
    if isinstance(fit, EngineProfile):
        return engine_profile.on_pool(fit, pool)
    where = "deployment.engine.calibration"
    for kind, mine, theirs in (("model", fit.model, model), ("device", fit.device, pool.device)):
        if mine != theirs:
            what = f"{pool.engine.calibration} is of {kind} {mine}, and this is {theirs}"
            fix = f"calibrate from a benchmark of {theirs}, or leave --calibration out"
            raise SpecError.one(where, what, fix)
    return fit.on_pool(pool)


def on_table(fit: EngineFit | EngineProfile | None, table: CostTable, pool: Pool) -> CostTable:
    """The table with the fitted factors; its interval is that of the error on what was held out."""
    if fit is None:
        return _without(table, pool)
    if isinstance(fit, EngineProfile):
        return engine_profile.on_table(fit, table, pool)
    n_rows = sum(s.rows_used for s in fit.sources)
    scale = replace(fit.scale(), n_rows=n_rows, residual=fit.rms)
    source = f"calibrated from {', '.join(Path(s.file).name for s in fit.sources) or 'a benchmark'}"
    out = scaled(table, scale, source=source)
    said = [f"{fit.name}: {', '.join(fit.untold)} could not be told and stay"] if fit.untold else []
    if pool.tp != fit.tp:
        said.append(f"the calibration is of tp {fit.tp}, and its factors are used at tp {pool.tp}")
    # `scaled` says "steps"; a benchmark gives requests
    kept = tuple(a for a in out.assumed if not a.startswith("times scaled to"))
    used = f"times scaled to {scale.n_rows:,} requests ({source})"
    return replace(out, assumed=(*kept, used, *said))


def _without(table: CostTable, pool: Pool) -> CostTable:
    """The table, saying so where the host takes no time in it."""
    engine = pool.engine
    if any(value for name, value in engine if name.startswith("host_")):
        return table
    why = f"{engine.runtime} has no profile" if engine.calibration else "no engine is named"
    said = f"the host takes no time ({why}; deployment.engine.runtime names one)"
    return replace(table, assumed=(*table.assumed, said))


def ids(pools: Iterable[Pool]) -> list[str]:
    """The calibrations that pools name: file or profile and content hash, for a provenance."""
    out = []
    for pool in pools:
        fit = of_pool(pool)
        if fit is not None:
            is_file = isinstance(fit, EngineFit)
            label = pool.engine.calibration if is_file else f"profile of {fit.name}"
            out.append(f"{label} {fit.content_hash()}")
    return list(dict.fromkeys(out))


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

    plain = _plain(fit)
    what = {name: plain[name] for name in ABOUT}  # what it is of stands before the numbers
    numbers = {name: plain[name] for name in EngineFit.coefficients()}
    data = {KEY: SCHEMA, "digest": _digest(plain)} | what | numbers | plain
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
