"""Which calibration answers for a family, a device and a runtime; `chosen` says what follows."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from forerun import catalog
from forerun.cost.calibration import Calibration, Store, version_numbers
from forerun.cost.chosen import Chosen
from forerun.cost.families import family
from forerun.spec.device import Device

#: devices of one architecture stand for each other when their arithmetic for a byte of memory
#: differs by no more than this, as a logarithm; further apart, other parts of a kernel bind
ALIKE = 0.5
#: what engines call for collectives: under any engine they are the same
LIBRARIES = ("nccl", "rccl", "oneccl")


def choose(
    name: str, device: Device, engine: str, version: str, key: str, calibrations: Store
) -> Chosen:
    """Which calibration answers: of the device, of one of its architecture, of all others."""
    # nothing but GPUs has been measured, and other kinds do not behave like them
    known_kind = device.kind == "gpu"
    general = calibrations.general(name) if known_kind else None
    module = family(name)
    asked = dict.fromkeys(any_kernel(module, k) if n else k for k in twins(key) for n in (0, 1))
    for one in asked:
        found = calibrations.measured(name, device.name, engine, version, one)
        if found is not None and _speaks_for(*found, engine, key):
            told = _told(found[0], engine, version), _in_format(found[1], key)
            return _by(module, *found, general, engine, "; ".join(filter(None, told)))
    others = _of_relatives(name, device, calibrations) if known_kind else []
    for one in asked:
        near = sibling_of(others, device, engine, one)
        if near is not None and _speaks_for(*near, engine, key):
            return from_sibling(module, *near, general, engine)
    return Chosen(module, None, key, general, False, "")


def from_sibling(
    module: ModuleType, own: Calibration, known: str, general: Calibration | None, engine: str
) -> Chosen:
    """What follows from a calibration of another device of the architecture."""
    return _by(module, own, known, general, engine, _told(own, engine, ""), scaled=True)


def _by(
    module: ModuleType, own: Calibration, known: str, general: Calibration | None, engine: str,
    told: str, *, scaled: bool = False,
) -> Chosen:  # fmt: skip
    return Chosen(module, own, known, general, is_other(own, engine), told, scaled)


def is_other(own: Calibration, engine: str) -> bool:
    """Whether a calibration is of another engine than the one asked for, if one is."""
    return bool(engine) and own.engine not in (engine, *LIBRARIES)


def any_kernel(module: ModuleType, key: str) -> str:
    """A key without the name of a kernel, which another engine, or version, calls otherwise; where
    the word is a library's, which matters, with that in place of its kernel's."""
    if "impl" not in module.KEYS:
        return key
    parts = key.split("|")
    at, of = module.KEYS.index("impl"), getattr(module, "KERNELS", None)
    parts[at] = "" if of is None else of.get(parts[at], parts[at])
    return "|".join(parts)


def twins(key: str) -> tuple[str, str]:
    """A key, and the same in the other 16-bit format: of equal width and rate, they take alike."""
    swapped = {"bf16": "fp16", "fp16": "bf16"}
    return key, "|".join(swapped.get(part, part) for part in key.split("|"))


def _speaks_for(own: Calibration, known: str, engine: str, key: str) -> bool:
    """Whether a calibration is near enough: another format or another engine, and not both.

    With products of an A100 in fp16 as Vidur measured them, a cold prompt of 21,073 tokens takes
    2.10 s in bf16 under vLLM; 1.97 follow from the data sheet, and AIBrix's runs took 1.93.
    """
    return not (is_other(own, engine) and _in_format(known, key))


def _in_format(known: str, key: str) -> str:
    """That the device was measured in the other 16-bit format, or ""."""
    pairs = zip(known.split("|"), key.split("|"), strict=True)
    pair = next((p for p in pairs if set(p) == {"bf16", "fp16"}), None)
    return f"measured in {pair[0]}, not {pair[1]}" if pair else ""


def _of_relatives(name: str, device: Device, calibrations: Store) -> list[Calibration]:
    """Calibrations of devices that may stand for this one; those of others stay unread."""
    return calibrations.all(
        name, lambda other, _: _related(family(name), catalog.device(other), device)
    )


def sibling_of(
    others: Sequence[Calibration], device: Device, engine: str, key: str
) -> tuple[Calibration, str] | None:
    """A calibration of another device of the same architecture (for collectives: of the same links)
    that knows the key, the closest in arithmetic for a byte, or None: of this engine, else, for the
    same chip, of any.

    Coefficients are shares and times that an architecture's kernels have in common; rates are the
    asked device's own.
    """
    found = []
    for own in others:
        if not own.device or own.device == device.name:
            continue
        other = catalog.device(own.device)
        known = own.closest_key(key)
        apart = abs(np.log(_balance(other) / _balance(device)))
        related = _related(family(own.family), other, device)
        same = own.engine in (engine, *LIBRARIES) or _same_chip(other, device)
        if known is not None and related and same:
            newest = [-n for n in version_numbers(own.version)]
            found.append((own.engine != engine, apart, own.device, newest, own.engine, own, known))
    if not found:
        return None
    return min(found, key=lambda f: f[:5])[5:]


def _related(module: ModuleType, a: Device, b: Device) -> bool:
    """Whether one device's measurements say something of another's: within an architecture; of
    collectives, over the same links."""
    if "all_reduce" in module.OPS:
        return _links(a) == _links(b)
    return _line(a) == _line(b) and abs(np.log(_balance(a) / _balance(b))) < ALIKE


def _links(device: Device) -> tuple[str | None, ...]:
    """What a node's collectives run over, whichever chip sends."""
    near, beyond = device.scale_up or device.host_link, device.topology == "pairs"
    return device.vendor, device.topology, near, device.host_link if beyond else None


def _line(device: Device) -> str:
    return device.architecture.lower().replace(" ", "").replace("-", "")


def _same_chip(a: Device, b: Device) -> bool:
    """Whether both are one chip beside other memory, as H100 and H200 are."""
    return a.n_sm is not None and (a.n_sm, a.l2_bytes) == (b.n_sm, b.l2_bytes)


def _balance(device: Device) -> float:
    return max(device.peak_flop_per_s.values()) / device.hbm_bytes_per_s


def _told(own: Calibration, engine: str, version: str) -> str:
    known = f"{own.engine} {own.version}".rstrip()
    if not engine:
        return f"runtime {known}"
    if own.engine in LIBRARIES:
        return f"library {known}"
    if engine != own.engine:
        return f"{own.device} was measured with {known}, not {engine}"
    if version and version != own.version:
        return f"measured with {known}, not version {version}"
    return ""
