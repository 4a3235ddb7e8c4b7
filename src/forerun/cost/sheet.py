"""`Sheet`: the data sheets of rows' devices as columns, and the runtimes they ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from forerun import catalog
from forerun.cost.collectives import adds_up
from forerun.cost.efficiency import efficiency
from forerun.cost.rows import Rows
from forerun.cost.sustained import sustained
from forerun.errors import ForerunError
from forerun.ops.check import math_format
from forerun.spec.device import Device, Link
from forerun.spec.dtype import DTYPES, MATH


class Sheet:
    """Numbers of each row's device, float64 [N]; NaN where a data sheet does not say.

    Rows share few devices, so each is told once, and a column of rows is made when it is asked for.
    """

    flop_per_s: np.ndarray  # peak of the row's number format, dense
    wide_flop_per_s: np.ndarray  # peak of the 16-bit matrix format (attention runs in it)
    fp8_flop_per_s: np.ndarray  # NaN where matrix units have no such format
    vector_flop_per_s: np.ndarray  # fp32 outside matrix units
    expands: np.ndarray  # 1 where weights are expanded to a wider format before multiplying
    hbm_bytes_per_s: np.ndarray
    n_sm: np.ndarray  # 1 where it is not known
    l2_bytes: np.ndarray
    link_bytes_per_s: np.ndarray  # to its neighbours in a node, one direction
    link_latency_s: np.ndarray
    host_bytes_per_s: np.ndarray  # to the host, one direction
    host_latency_s: np.ndarray
    adds_up: np.ndarray  # 1 where the switch between neighbours reduces
    network_bytes_per_s: np.ndarray  # between nodes, one device's port
    network_latency_s: np.ndarray
    per_node: np.ndarray  # devices that talk without the network
    is_gpu: np.ndarray
    # shares of the sheet that kernels reach before any measurement (cost.efficiency)
    gemm: np.ndarray
    stream: np.ndarray
    gather: np.ndarray
    launch_s: np.ndarray
    tile_rows: np.ndarray  # rows the matrix unit computes at least
    topology: np.ndarray  # str: of a node's links, as in `spec.device`
    architecture: np.ndarray  # str: "hopper", "ada", ...
    device: np.ndarray  # str: its name in the catalog
    engine: np.ndarray  # str: "vllm", "trtllm", "torch", ... or ""

    def __init__(
        self, told: Mapping[str, np.ndarray], of: np.ndarray,
        problems: Mapping[int, str] | None = None, notes: Mapping[int, str] | None = None,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """told : the columns of distinct devices and engines [D]; of : which a row has, int [N];
        problems : rows without an answer, and why; notes : what was assumed about a row's device;
        given : columns of rows in place of those told.
        """
        self.told, self.of, self.given = told, of, given or {}
        self.problems, self.notes = problems or {}, notes or {}
        self.__dict__.update(self.given)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name not in _COLUMNS:
                raise AttributeError(f"{type(self).__name__} has no {name}")
            self.__dict__[name] = column = self.told[name][self.of]
            return column

    def by(self, *engines: str) -> np.ndarray:
        """Rows of these engines, bool [N]."""
        return np.array([told in engines for told in self.told["engine"]], dtype=bool)[self.of]

    def on(self, *architectures: str) -> np.ndarray:
        """Rows of devices of these architectures, bool [N]."""
        known = [told in architectures for told in self.told["architecture"]]
        return np.array(known, dtype=bool)[self.of]

    def take(self, which: np.ndarray | slice) -> Sheet:
        """The rows an index or a mask picks, without problems and notes."""
        given = {name: column[which] for name, column in self.given.items()}
        return Sheet(self.told, self.of[which], given=given)

    def at_peak(self, flop_per_s: np.ndarray) -> Sheet:
        """The same rows with another peak, float64 [N], in every number format."""
        given = {**self.given, "flop_per_s": flop_per_s, "wide_flop_per_s": flop_per_s}
        return Sheet(self.told, self.of, self.problems, self.notes, given)


_COLUMNS = tuple(Sheet.__annotations__)
_WORDS = ("topology", "architecture", "device", "engine")
_NUMBERS = tuple(name for name in _COLUMNS if name not in _WORDS)


def sheet(
    x: Rows, known: Mapping[str, Device] | None = None, links: Mapping[str, Link] | None = None
) -> Sheet:
    """The data sheets of the rows' devices, each looked up once; `known` devices and links before
    the catalog."""
    asked = list(zip(x.words("device"), x.words("dtype", "bf16"), x.words("runtime"), strict=True))
    place = {key: j for j, key in enumerate(dict.fromkeys(asked))}
    of = np.array([place[key] for key in asked], dtype=int)
    found = [
        _numbers(str(device), str(dtype), known or {}, links or {})
        | {"engine": split_runtime(str(runtime))[0]}
        for device, dtype, runtime in place
    ]
    told = {n: np.array([row[n] for row in found], dtype=float) for n in _NUMBERS}
    told |= {n: np.array([row[n] for row in found], dtype=object) for n in _WORDS}
    said = {
        kind: {
            int(i): str(row[kind])
            for j, row in enumerate(found) if row[kind]
            for i in np.flatnonzero(of == j)
        }
        for kind in ("problem", "note")
    }  # fmt: skip
    return Sheet(told, of, said["problem"], said["note"])


def _numbers(
    device_name: str, dtype: str, known: Mapping[str, Device], links: Mapping[str, Link]
) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(_NUMBERS, np.nan)
    row |= {"problem": "", "note": "", "topology": "", "architecture": "", "device": ""}
    if not device_name:
        return row | {"problem": "no device is given; name one of the catalog"}
    try:
        device, row["note"] = (
            (known[device_name], "") if device_name in known else device_of(device_name)
        )
    except ForerunError as error:
        return row | {"problem": str(error.problems[0]).replace("\n  try: ", "; try ")}
    if dtype not in DTYPES:
        return row | {"problem": f"dtype {dtype!r} is none of {', '.join(DTYPES)}"}
    eff = efficiency(device)
    used = math_format(device, dtype)
    if used is None:
        return row | {"problem": f"{device.name} has no arithmetic for {dtype} nor a wider format"}
    host, network = (_link(name, links) for name in (device.host_link, device.network))
    link = _link(device.scale_up, links) or host
    peaks = device.peak_flop_per_s
    wide = next((peaks[f] for f in ("bf16", "fp16", "tf32", "fp32") if f in peaks), np.nan)
    row |= {
        "flop_per_s": peaks[used],  # type: ignore[index]
        "wide_flop_per_s": wide,
        "fp8_flop_per_s": peaks.get("fp8", np.nan),
        "vector_flop_per_s": peaks.get("fp32", np.nan),
        "expands": float(dtype.endswith("_wo") or expands(dtype, used)),
        "hbm_bytes_per_s": device.hbm_bytes_per_s,
        "n_sm": device.n_sm or 1.0,
        "l2_bytes": device.l2_bytes or np.nan,
        "link_bytes_per_s": link.bandwidth_bytes_per_s if link else np.nan,
        "link_latency_s": link.latency_s if link else np.nan,
        "host_bytes_per_s": host.bandwidth_bytes_per_s if host else np.nan,
        "host_latency_s": host.latency_s if host else np.nan,
        "adds_up": float(adds_up(device)),
        "network_bytes_per_s": network.bandwidth_bytes_per_s if network else np.nan,
        "network_latency_s": network.latency_s if network else np.nan,
        "per_node": float(device.scale_up_domain or device.devices_per_node),
        "is_gpu": float(device.kind == "gpu"),
        "gemm": sustained(device, used) or eff.gemm, "stream": eff.stream, "gather": eff.gather,
        "launch_s": eff.launch_s, "tile_rows": eff.rows,
        "topology": device.topology,
        "architecture": device.architecture.lower().replace(" ", "").replace("-", ""),
        "device": device.name,
    }  # fmt: skip
    return row


def device_of(name: str) -> tuple[Device, str]:
    """The device of a table's row.  "a100_sxm" fits two; the one with most memory is meant in
    nearly every table, so it is taken and said.  Raises SpecError for a name of none."""
    fits = catalog.fitting(name)
    if len(fits) < 2:
        return catalog.device(name), ""
    device = max((catalog.device(n) for n in fits), key=lambda d: (d.hbm_bytes, d.hbm_bytes_per_s))
    return device, f"{name} is taken to be {device.name}"


def expands(dtype: str, used: str) -> bool:
    """Whether weights in `dtype` are widened on the way because the device multiplies in `used`."""
    return used != MATH.get(dtype, dtype) and dtype not in ("bf16", "fp16", "fp32", "tf32")


def _link(name: str | None, links: Mapping[str, Link]) -> Link | None:
    if not name:
        return None
    return links[name] if name in links else catalog.link(name)


_RUNTIME = re.compile(r"^\s*([A-Za-z][A-Za-z_\-]*?)[\s_\-:=@]*v?(\d[\w.+\-]*)?\s*$")
_ENGINES = {
    "tensorrtllm": "trtllm",
    "tensorrt-llm": "trtllm",
    "pytorch": "torch",
    "ort": "onnxruntime",
}


def split_runtime(runtime: str) -> tuple[str, str]:
    """(engine, version) of "vLLM 0.24.0", "trtllm-1.3.0rc20", "TensorRT-LLM", "torch"."""
    match = _RUNTIME.match(runtime)
    if not match:
        return runtime.strip().lower(), ""
    engine = match[1].lower()
    return _ENGINES.get(engine, engine), match[2] or ""
