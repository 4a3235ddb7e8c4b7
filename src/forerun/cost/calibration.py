"""`Calibration`: fitted coefficients of one family of operators, with where they come from.

One file a (family, device, runtime), and one a family for devices that nobody measured (its device
is "").  A file is an .npz archive: arrays, and `meta` as JSON.  It is read whole or refused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from forerun.cost.families import families, family
from forerun.cost.trees import Trees, trees_from
from forerun.errors import SpecError
from forerun.paths import data_dir
from forerun.version import __version__

SCHEMA = 1  # of the file; another one is refused
SHIPPED = Path(__file__).parent / "calibrations"

#: what bounds a row, in this order: a launch (under SHORT_S), traffic, arithmetic
REGIMES = ("under_20us", "bandwidth", "compute")
SHORT_S = 20e-6
#: rows below which a calibration has coefficients and no residual, and does not take the place of
#: one of the same device and runtime that has more
FEW_ROWS = 60


@dataclass(frozen=True)
class Origin:
    """A table that rows were taken from."""

    name: str
    origin: str
    licence: str
    rows: int
    marks: tuple[str, ...] = ()  # of some of the rows, by which they are told again


@dataclass(frozen=True)
class Errors:
    """Absolute percentage errors on rows that were not used for fitting, as fractions."""

    n: int
    median: float
    p90: float
    split: str  # "20 % of the shapes held out", "each device left out in turn"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Coefficients, residual and interval of a family on one device and runtime.

    seconds = physics(rows, sheet, coefs) * exp(trees(features))
    interval = seconds * exp(spread): the 10 % and 90 % quantiles of log(measured / predicted) on
    rows held out, by regime.
    """

    family: str
    device: str  # catalog name; "" for devices never measured
    engine: str
    version: str  # of the engine
    keys: tuple[str, ...]  # values of the family's KEYS joined by "|", one a row of `coefs`, the
    #                        most measured first; of a general one a single "" for all
    names: tuple[str, ...]  # of the coefficients, one a column
    coefs: np.ndarray  # float64 [keys, names]; of a general one: factors on the starting values
    ranges: Mapping[str, tuple[float, float]]  # of each shape column, in the rows used
    spread: Mapping[str, tuple[float, float]]  # by regime
    errors: Errors
    origins: tuple[Origin, ...]
    date: str  # ISO day of the fit
    trees: Trees | None = None  # None: too few rows, physics alone
    written_by: str = __version__
    schema: int = SCHEMA
    notes: tuple[str, ...] = field(default=())
    #: engines whose rows take the residual of a general calibration, or "not <engine>"; "*" is for
    #: all that it does not name.  It may learn how one tool measures, which says nothing of others
    residual_of: tuple[str, ...] = ("*",)

    @property
    def rows(self) -> int:
        return sum(origin.rows for origin in self.origins)

    @property
    def label(self) -> str:
        """What a prediction gives as its source: "fitted: h100-sxm vllm 0.24.0, 85,750 rows"."""
        if not self.device:
            return f"across devices, {self.rows:,} rows of others"
        runtime = f" {self.engine} {self.version}".rstrip()
        return f"fitted: {self.device}{runtime}, {self.rows:,} rows"

    def closest_key(self, key: str) -> str | None:
        """The measured key that agrees with every part that is given; the one of most rows."""
        asked = key.split("|")
        for known in self.keys:
            if all(not a or a == b for a, b in zip(asked, known.split("|"), strict=True)):
                return known
        return None

    @property
    def file_name(self) -> str:
        if not self.device:
            return "general.npz"
        parts = (self.device, self.engine, self.version)
        return "--".join(_spelled(part) for part in parts if part) + ".npz"


def _spelled(part: str) -> str:
    """A name as part of a file's name: no slash, and no "--", which stands between parts."""
    return quote(part, safe=" +").replace("--", "%2D%2D")


def _parts(file_name: str) -> list[str]:
    """[device, engine, version] of a calibration's file; the last may be missing."""
    return [unquote(part) for part in file_name.removesuffix(".npz").split("--")]


def save(calibration: Calibration, folder: Path) -> Path:
    """Write `<folder>/<family>/<file name>`, in one step; returns the path.

    Raises SpecError where the folder cannot be written.
    """
    meta = {
        f.name: getattr(calibration, f.name)
        for f in fields(Calibration) if f.name not in ("coefs", "trees", "errors", "origins")
    }  # fmt: skip
    meta["errors"] = asdict(calibration.errors)
    meta["origins"] = [asdict(origin) for origin in calibration.origins]
    meta["features"] = calibration.trees.names if calibration.trees else None
    arrays: dict[str, np.ndarray] = {"coefs": calibration.coefs.astype(np.float32)}
    if calibration.trees:
        arrays |= calibration.trees.arrays()
    path = folder / calibration.family / calibration.file_name
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        draft.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError.one(str(path), f"cannot be written: {reason}", "another folder") from None
    return path


def load(path: Path) -> Calibration:
    """The calibration in a file.

    Raises SpecError for a file that is damaged, not a calibration, of another schema, or of a
    family whose coefficients or keys have changed since.
    """
    again = "fit it anew with `forerun calibrate ops`, or delete it to go without"
    if not path.exists():
        raise SpecError.one(str(path), "there is no such file", again)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta: dict[str, Any] = dict(json.loads(bytes(arrays.pop("meta")).decode()))
    except Exception as error:  # numpy, zipfile and zlib raise whatever the damage looks like
        raise SpecError.one(str(path), f"is damaged ({_first(error)})", again) from None
    schema = meta.get("schema")
    by = f"was written by forerun {meta.get('written_by', '?')}"
    if schema != SCHEMA:
        what = f"{by} in format {schema}; this is {__version__}, format {SCHEMA}"
        raise SpecError.one(str(path), what, again)
    try:
        features = meta.pop("features")
        trees = trees_from(tuple(features), arrays) if features else None
        coefs = arrays["coefs"].astype(float)
        good = np.isfinite(coefs) & (coefs > 0)
        if coefs.shape != (len(meta["keys"]), len(meta["names"])) or not good.all():
            raise ValueError("coefficients do not belong to their names")
        found = Calibration(
            **meta
            | {
                "coefs": coefs,
                "trees": trees,
                "keys": tuple(meta["keys"]),
                "names": tuple(meta["names"]),
                "notes": tuple(meta["notes"]),
                "residual_of": tuple(meta.get("residual_of", ("*",))),
                "errors": Errors(**meta["errors"]),
                "origins": tuple(
                    Origin(**origin | {"marks": tuple(origin.get("marks", ()))})
                    for origin in meta["origins"]
                ),
                "ranges": {k: (v[0], v[1]) for k, v in meta["ranges"].items()},
                "spread": {k: (v[0], v[1]) for k, v in meta["spread"].items()},
            }
        )
    except Exception as error:  # the same: fields that are missing, or of another kind
        raise SpecError.one(str(path), f"is damaged ({_first(error)})", again) from None
    other = mismatch(found)
    if other:
        raise SpecError.one(str(path), f"{by} {other}", again)
    return found


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    return (said or type(error).__name__).splitlines()[0]


def mismatch(own: Calibration) -> str:
    """How a calibration's family differs from what this version has under its name, or ""."""
    if own.family not in families():
        return f"for the family {own.family}, which {__version__} lacks"
    module = family(own.family)
    names = {c.name for c in module.COEFS}
    apart = sorted(names ^ set(own.names))
    if apart:
        return f"with other coefficients of {own.family} than {__version__} has: {', '.join(apart)}"
    if own.device and any(key.count("|") != len(module.KEYS) - 1 for key in own.keys):
        return f"with other keys of {own.family} than {__version__} has: {', '.join(module.KEYS)}"
    return ""


class Store:
    """Calibrations by family, from folders; of a device and runtime the first folder's answers.

    Unless it was fitted to few rows, and one of a later folder to more: ten rows of one's own say
    little beside a whole table of the same device, and answer only for what that one lacks.
    Files are found when a family is first asked for and read when they are first used.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self._read: dict[Path, Calibration] = {}
        self._found: dict[str, dict[str, list[Path]]] = {}

    def files(self, family: str) -> dict[str, Path]:
        """File name -> path of the one that answers first."""
        return {name: paths[0] for name, paths in self.copies(family).items()}

    def copies(self, family: str) -> dict[str, list[Path]]:
        """File name -> paths of all folders that have it, the one that answers first."""
        if family not in self._found:
            found: dict[str, list[Path]] = {}
            for folder in self.folders:
                for path in sorted((folder / family).glob("*.npz")):
                    found.setdefault(path.name, []).append(path)
            for name, paths in found.items():
                if len(paths) > 1 and self.get(paths[0]).rows < FEW_ROWS:
                    found[name] = sorted(paths, key=lambda path: -self.get(path).rows)
            self._found[family] = found
        return self._found[family]

    def get(self, path: Path) -> Calibration:
        if path not in self._read:
            self._read[path] = load(path)
        return self._read[path]

    def general(self, family: str) -> Calibration | None:
        """For devices never measured: the one fitted to most rows, so that a few rows of one's own
        device do not take the place of all others'."""
        paths = [folder / family / "general.npz" for folder in self.folders]
        found = [self.get(path) for path in paths if path.exists()]
        return max(found, key=lambda own: own.rows, default=None)

    def all(
        self, family: str, wanted: Callable[[str, str], bool] = lambda device, engine: True
    ) -> list[Calibration]:
        """Calibrations of devices; of those that are not wanted, by the device and engine that
        their names tell, the files are not read."""
        files = {n: path for n, path in self.files(family).items() if n != "general.npz"}
        told = {name: [*_parts(name), ""][:2] for name in files}
        return [self.get(path) for name, path in files.items() if wanted(*told[name])]

    def origins(self) -> set[str]:
        """Names of all tables that any of them was fitted to."""
        return {origin.name for origin in self._origins()}

    def marks(self) -> set[str]:
        """Marks of rows that any of them was fitted to."""
        return {mark for origin in self._origins() for mark in origin.marks}

    def _origins(self) -> Iterator[Origin]:
        families = {path.name for folder in self.folders for path in folder.glob("*")}
        for name in sorted(families):
            for paths in self.copies(name).values():
                for path in paths:
                    yield from self.get(path).origins

    def measured(
        self, family: str, device: str, engine: str, version: str, key: str
    ) -> tuple[Calibration, str] | None:
        """The calibration of a device that knows a key, and the key as it was measured: of this
        engine and version, else its newest version, else of any engine.  None where none does."""
        mine = [
            (parts, path) for name, paths in self.copies(family).items()
            if (parts := _parts(name))[0] == device for path in paths
        ]  # fmt: skip
        mine.sort(key=lambda file: _newest(file[0]), reverse=True)
        mine.sort(key=lambda file: (file[0][1:2] != [engine], file[0][1:3] != [engine, version]))
        for _, path in mine:
            found = self.get(path)
            known = found.closest_key(key)
            if known is not None:
                return found, known
        return None


def _newest(parts: list[str]) -> tuple[Any, ...]:
    return version_numbers(parts[2] if len(parts) > 2 else ""), parts


def version_numbers(version: str) -> tuple[int, ...]:
    """ "1.3.0rc20" as (1, 3, 0, 20), to be compared."""
    return tuple(int(x) for x in version.replace("rc", ".").split(".") if x.isdecimal())


def user_folder() -> Path:
    """Where calibrations of one's own are found by every command."""
    return data_dir() / "calibrations"


@functools.cache
def store() -> Store:
    """The user's own calibrations, then those that ship."""
    return Store(user_folder(), SHIPPED)
