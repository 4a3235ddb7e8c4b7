"""Devices, links, prices and grids that ship with Forerun, from the YAML files beside this one.

Conventions of the files:

- A file's name is its public name: `devices/h100-sxm.yaml` is `device("h100-sxm")`.
- Peaks are dense, and the fastest path of a type, matrix cores included.  Data sheets that print
  rates with sparsity are halved.  fp16 and bf16 on GeForce cards are the rates with fp32
  accumulation.  Server processors are stated at base clock, everything else at boost.
- `hbm_bytes` is what software can use: the total that the driver reports where it is known
  ("81559 MiB" for an "80 GB" H100), else the maker's figure, read as GiB where the maker says GiB
  and as GB (1e9, the cautious reading) where not.
- A link's rate is one direction, all ports of one device together, after line coding and before
  packet headers.
- A source ends in "checked 2026" when the number was compared with a stored copy of that page or
  with a second public table, in "entered 2026" when it was not read again, and says "estimate" or
  "derived" when nobody publishes it.

Only the file that is asked for is parsed; aliases are looked up by a scan of their lines.

A user's own devices are files of the same form in `devices/` of Forerun's data folder; `forerun
measure` writes this machine's processor there.  The catalog's names come first.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

from pydantic import ValidationError

from forerun import paths, units
from forerun.errors import SpecError, nearest
from forerun.spec.device import Device, Link

_Spec = TypeVar("_Spec", Device, Link)
_HERE = Path(__file__).parent
_PLAIN = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_ALIASES = re.compile(r"^aliases: \[(.*)\]$", re.MULTILINE)


@dataclass(frozen=True)
class Price:
    """What one device costs an hour, on demand, at one provider on one day."""

    usd_per_hour: float
    provider: str
    date: str  # ISO day on which the offer was seen
    source: str


@dataclass(frozen=True)
class Purchase:
    """What one device cost to buy when it was launched."""

    usd: float
    date: str
    source: str


@dataclass(frozen=True)
class Grid:
    """Yearly mean carbon intensity of the electricity of a place."""

    region: str
    name: str
    gco2e_per_kwh: float
    year: int
    source: str


@functools.cache
def devices() -> tuple[str, ...]:
    """Names of all devices of the catalog, sorted."""
    return _names("devices")


@functools.cache
def links() -> tuple[str, ...]:
    """Names of all links of the catalog, sorted."""
    return _names("links")


@functools.cache
def device(name: str) -> Device:
    """The device of that name or alias, in any case ("H100", "h100-sxm", "A100-80GB").

    Raises SpecError with the nearest names when it is not known, and with the choices when the
    name fits several devices ("A100").
    """
    return _described(Device, _place(name))


@functools.cache
def link(name: str) -> Link:
    """The link of that name, in any case.  Raises SpecError with the nearest names."""
    key = _key(name)
    if key not in links():
        raise SpecError.one(f"link {name!r}", "is not in the catalog", nearest(key, links()))
    return _described(Link, _HERE / "links" / f"{key}.yaml")


@functools.cache
def price(name: str) -> Price | None:
    """The median on-demand offer for the device, or None when no price is known.

    One real offer is returned, never a mean: the lower of the middle two when their number is
    even.  Raises SpecError when the device is not known.
    """
    found = offers(name)
    if not found:
        return None
    middle = median_low(offer.usd_per_hour for offer in found)
    return next(offer for offer in found if offer.usd_per_hour == middle)


@functools.cache
def offers(name: str) -> tuple[Price, ...]:
    """All on-demand offers known for the device, cheapest first."""
    table = _prices(name)
    rows = table.get("offers", ())
    found = [
        Price(
            usd_per_hour=units.parse(row["price"], "usd_per_hour"),
            provider=row["provider"],
            date=str(row["date"]),
            source=table["sources"][row["source"]],
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda offer: offer.usd_per_hour))


@functools.cache
def purchase(name: str) -> Purchase | None:
    """The maker's launch price of the device, or None when none was public."""
    row = _prices(name).get("purchase")
    if row is None:
        return None
    return Purchase(units.parse(row["price"], "usd"), str(row["date"]), row["source"])


@functools.cache
def grid(region: str) -> Grid:
    """Carbon intensity by country ("de", "DEU", "Germany"), Google Cloud region or "world".

    Raises SpecError with the nearest names when the place is not known.
    """
    table = _table("grids")
    wanted = _key(region)
    names: dict[str, str] = {}
    for code, row in table["regions"].items():
        # a city's name gives way to the country of that name ("Singapore")
        for known in (code, *row.get("aliases", ()), _key(row["name"])):
            names.setdefault(known, code)
    if wanted not in names:
        raise SpecError.one(f"grid {region!r}", "is not in the catalog", nearest(wanted, names))
    code = names[wanted]
    row = table["regions"][code]
    return Grid(
        region=code,
        name=row["name"],
        gco2e_per_kwh=units.parse(row["intensity"], "carbon_per_kwh"),
        year=row["year"],
        source=table["sources"][row["source"]],
    )


def _key(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_HERE / folder).glob("*.yaml")))


def _place(name: str) -> Path:
    """The file of a device: the catalog's, else the user's own."""
    try:
        return _HERE / "devices" / f"{_resolve(name)}.yaml"
    except SpecError:
        path = paths.data_dir() / "devices" / f"{_key(name)}.yaml"
        if not _PLAIN.fullmatch(_key(name)) or not path.is_file():
            raise
        return path


def _resolve(name: str) -> str:
    """The file name that a name or alias stands for."""
    key = _key(name)
    if key in devices():
        return key
    aliases = _aliases()
    if key in aliases:
        return aliases[key]
    if _squeezed(key) in _squeezed_names():
        return _squeezed_names()[_squeezed(key)]
    where = f"device {name!r}"
    family = fitting(name)
    if len(family) > 1:
        raise SpecError.one(where, f"fits {len(family)} devices", "one of: " + ", ".join(family))
    fix = f"did you mean {family[0]}?" if family else nearest(key, {*devices(), *aliases})
    raise SpecError.one(where, "is not in the catalog", fix)


def fitting(name: str) -> list[str]:
    """The devices whose names open with this one: four for "A100", one or none where it is clear.

    "a100" and "gaudi" open longer names; "a1" and "jets" break a word or number of them.
    """
    key = _key(_NOISE.sub("", _key(name)).strip("-"))
    if not key or key in devices() or _squeezed(key) in _squeezed_names():
        return []
    opening = re.compile(re.escape(key) + (r"(?!\d)" if key[-1:].isdigit() else r"(?![a-z])"))
    return [known for known in devices() if opening.match(known)]


#: words that drivers and tables put around a device's name and that tell nothing
_NOISE = re.compile(
    r"\((r|tm)\)|\b(nvidia|amd|intel|tesla|instinct|geforce|radeon|graphics|corporation|gpu)\b"
)


def _squeezed(key: str) -> str:
    """A name as drivers write it without maker, marks and hyphens: "NVIDIA A100-SXM4-80GB" and
    "a100_sxm_80gb" both give "a100sxm80gb"."""
    return re.sub(r"sxm[456]", "sxm", re.sub(r"[^a-z0-9]", "", _NOISE.sub("", key)))


@functools.cache
def _squeezed_names() -> dict[str, str]:
    """Squeezed name -> file name, of names and aliases; what two devices share is left out."""
    found: dict[str, set[str]] = {}
    for name, target in (*_aliases().items(), *((name, name) for name in devices())):
        found.setdefault(_squeezed(name), set()).add(target)
    return {name: targets.pop() for name, targets in found.items() if len(targets) == 1}


@functools.cache
def _aliases() -> dict[str, str]:
    """alias -> file name, from the `aliases` lines alone: 80 files in milliseconds, unparsed."""
    found = {}
    for name in devices():
        match = _ALIASES.search((_HERE / "devices" / f"{name}.yaml").read_text("utf-8"))
        for alias in match[1].split(",") if match else ():
            found[alias.strip().strip('"')] = name
    return found


@functools.cache
def _table(name: str) -> dict[str, Any]:
    return _load(_HERE / f"{name}.yaml")


def _prices(name: str) -> dict[str, Any]:
    """What is known of a device's prices; see prices/README.md."""
    path = _HERE / "prices" / f"{_place(name).stem}.yaml"
    return _load(path) if path.exists() else {}


def _described(kind: type[_Spec], path: Path) -> _Spec:
    """The file as a description; a mistake in it is told with its line."""
    try:
        return kind.model_validate(_load(path), context={"file": True})
    except ValidationError as error:
        # only now is the slower reader needed, which keeps the place of every value
        from forerun.spec import yaml
        from forerun.spec.bridge import problems_of

        root = yaml.parse(path.read_text("utf-8"), f"{path.parent.name}/{path.name}")
        raise SpecError(*problems_of(error, root, kind)) from None


def _load(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
