"""The shipped hardware: every file is valid, sourced, named as its file, and agrees with others."""

import datetime
import json
import math
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from forerun.catalog import hardware
from forerun.errors import SpecError
from forerun.spec.device import Device

FOLDER = Path(hardware.__file__).parent
DEVICES = hardware.devices()
NUMBERS = (
    "peak_flop_per_s", "hbm_bytes", "hbm_bytes_per_s", "n_sm", "l2_bytes", "clock_hz", "tdp_w",
    "idle_w", "least_clock_hz", "least_cap_w", "scale_up", "topology", "devices_per_node",
    "scale_up_domain", "host_link", "network",
)  # fmt: skip


def load(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path)


def test_the_catalog_holds_the_devices_that_were_promised():
    promised = {
        "v100-sxm2-16gb", "v100-sxm2-32gb", "v100-pcie-32gb", "t4", "p100-pcie-16gb", "p4",
        "a10g", "a10", "a30", "a40", "a100-pcie-40gb", "a100-pcie-80gb", "a100-sxm-40gb",
        "a100-sxm-80gb", "rtx-3090", "rtx-4090", "rtx-5090", "gtx-1080-ti", "rtx-2080-ti",
        "rtx-a6000", "rtx-4000-ada", "rtx-5000-ada", "rtx-6000-ada", "rtx-pro-6000",
        "rtx-pro-6000-server", "l4", "l40", "l40s", "h100-pcie", "h100-sxm", "h100-nvl", "h800",
        "h20", "h200-sxm", "h200-nvl", "gh200", "b200", "b300", "gb200", "gb300", "mi100",
        "mi210", "mi250x-gcd", "mi300x", "mi325x", "mi355x", "gaudi2", "gaudi3", "arc-pro-b60",
        "arc-b580", "max-1550", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7",
        "trainium1", "trainium2", "trainium3", "inferentia2", "m2-ultra", "m4-max", "m3-ultra",
        "jetson-agx-orin-64gb", "jetson-orin-nano", "ryzen-ai-max-395", "gb10", "epyc-9654",
        "epyc-9755", "xeon-8480plus", "xeon-6980p",
    }  # fmt: skip
    assert promised <= set(DEVICES)
    assert len(DEVICES) >= 60


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_is_valid_and_named_as_its_file(name):
    device = hardware.device(name)
    assert device.name == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)
    assert 2015 <= device.year <= 2026


@pytest.mark.parametrize("name", DEVICES)
def test_every_number_of_a_device_has_a_source_with_a_year_or_a_reason(name):
    device = hardware.device(name)
    assert re.search(r"20\d\d", device.sources[""])
    assert set(device.sources) - {""} <= set(NUMBERS)
    for field in NUMBERS:
        if getattr(device, field) is not None:
            assert len(device.source_of(field)) >= 2
    for field in device.sources:
        assert not field or getattr(device, field) is not None, f"{field} is sourced but absent"


@pytest.mark.parametrize("name", DEVICES)
def test_narrower_types_are_never_slower(name):
    """fp64 <= fp32 <= tf32 <= bf16 <= fp16 <= fp8 <= fp6 <= fp4 and fp16 <= int8 <= int4."""
    peak = hardware.device(name).peak_flop_per_s
    assert peak
    assert all(1e11 < flop_per_s < 1e17 for flop_per_s in peak.values())
    no_int8 = {"b300", "gb300", "vr200"}  # gave up their int8 units
    for chain in (
        ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4"),
        ("fp32", "bf16", "int8", "int4"),
    ):
        if "int8" in chain and name in no_int8:
            continue
        known = [peak[dtype] for dtype in chain if dtype in peak]
        assert known == sorted(known), (name, chain, known)


@pytest.mark.parametrize("name", DEVICES)
def test_bandwidth_power_and_memory_are_plausible(name):
    device = hardware.device(name)
    best_16 = max(device.peak_flop_per_s.get(d, 0) for d in ("bf16", "fp16", "fp32"))
    # flop a byte at the ridge: server processors have tens, matrix engines hundreds
    assert 10 <= best_16 / device.hbm_bytes_per_s <= 1000
    # a pass over memory takes milliseconds for stacked memory, up to two seconds for DIMMs
    assert 0.005 <= device.hbm_bytes / device.hbm_bytes_per_s <= 2
    assert 1e10 <= best_16 / device.tdp_w <= 1e13
    assert device.idle_w is None or 0.01 < device.idle_w / device.tdp_w < 0.6
    assert device.l2_bytes is None or device.l2_bytes < device.hbm_bytes / 50
    assert device.clock_hz is None or 0.9e9 <= device.clock_hz <= 4.2e9


#: flop a clock and multiprocessor of the 16-bit matrix path, fp32 accumulation: data sheets' own
#: arithmetic, which ties three numbers of a file (units, clock, peak) to each other
RATE_16 = {
    "volta": 1024, "hopper": 4096, "blackwell": 8192, "cdna1": 1024, "cdna2": 1024, "cdna3": 2048,
    "cdna4": 4096, "xe2": 2048, "xe-hpc": 4096, "rdna3": 512, "rdna3.5": 512, "rdna4": 1024,
}  # fmt: skip
#: turing, ampere, ada, blackwell-rtx: the GeForce rate is half of the professional one
HALF_RATE = {"rtx-2080-ti", "rtx-3090", "rtx-4090", "rtx-5090", "a10g", "l40"}
GEFORCE_OR_PRO = ("turing", "ampere", "ada", "blackwell-rtx")
A100_CLASS = {n for n in DEVICES if n.startswith(("a100", "a30", "jetson"))}
OFF_RATE = {
    "h20": "cut down for export far below units times clock",
    "h100-nvl": "its sheet states the clock that 350 W allow, not the highest",
    "h200-nvl": "as the h100-nvl",
    "rtx-4000-ada": "its sheet states 30 % less than units times boost clock",
    "gb10": "its peaks are halved down from a rounded 1 Pflop/s",
}


def rate_16(name: str) -> int | None:
    """Flop a clock and unit in 16 bits, None where nothing is published to check with."""
    device = hardware.device(name)
    if name in OFF_RATE or not (device.n_sm and device.clock_hz):
        return None
    if device.architecture in GEFORCE_OR_PRO:
        return 2048 if name in A100_CLASS else 512 if name in HALF_RATE else 1024
    return RATE_16.get(device.architecture)


RATED = [name for name in DEVICES if rate_16(name)]


@pytest.mark.parametrize("name", RATED)
def test_sixteen_bit_peak_is_units_times_clock_times_rate(name):
    device = hardware.device(name)
    peak = device.peak_flop_per_s["fp16"]
    # sheets compute some peaks below the highest clock (H100: 1.83 of 1.98 GHz)
    assert 0.9 <= peak / (device.n_sm * device.clock_hz * rate_16(name)) <= 1.02


def test_the_rate_law_covers_most_accelerators_and_its_exceptions_are_needed():
    assert len(RATED) >= 40
    for name in OFF_RATE:
        device = hardware.device(name)
        rate = RATE_16.get(device.architecture, 1024)
        ratio = device.peak_flop_per_s["fp16"] / (device.n_sm * device.clock_hz * rate)
        assert not 0.9 <= ratio <= 1.02, f"{name} follows the law: drop its exception"


def test_every_link_is_valid_sourced_and_named_as_its_file():
    for name in hardware.links():
        link = hardware.link(name)
        assert link.name == name
        assert re.search(r"20\d\d", link.source), name
        assert "latency" in link.source, f"{name}: where is the latency from?"
        assert 1e8 <= link.bandwidth_bytes_per_s <= 4e12
        assert 0 < link.latency_s <= 2e-5


def test_links_that_devices_name_exist_and_have_the_right_kind():
    used = set()
    for device in map(hardware.device, DEVICES):
        if device.scale_up:
            assert hardware.link(device.scale_up).kind == "scale-up"
            assert device.topology in ("pairs", "mesh", "switch", "torus2d", "torus3d")
            assert device.devices_per_node > 1
        else:
            assert device.topology in ("none", "pcie")
        if device.host_link:
            assert hardware.link(device.host_link).kind in ("pcie", "scale-up", "die")
        if device.network:
            assert hardware.link(device.network).kind == "network"
        if device.scale_up_domain:
            assert device.scale_up_domain > device.devices_per_node
        used |= {device.scale_up, device.host_link, device.network}
    # every link made for one device family is used by one
    generic = re.compile(r"pcie|ethernet|infiniband|ultrafusion")
    assert {n for n in hardware.links() if not generic.match(n)} <= used


def test_aliases_are_unique_and_found_by_the_quick_scan():
    seen: dict[str, str] = {}
    for name in DEVICES:
        written = load(FOLDER / "devices" / f"{name}.yaml").get("aliases", [])
        for alias in written:
            assert alias == hardware._key(alias)
            assert alias not in DEVICES
            assert alias not in seen, f"{alias}: {name} and {seen.get(alias)}"
            seen[alias] = name
    assert hardware._aliases() == seen


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("H100", "h100-sxm"),
        ("H100-SXM", "h100-sxm"),
        ("A100-80GB", "a100-sxm-80gb"),
        ("rtx 4090", "rtx-4090"),
        ("RTX_PRO_6000", "rtx-pro-6000"),
        ("Ironwood", "tpu-v7"),
        ("MI250X", "mi250x-gcd"),
        (" b200 ", "b200"),
    ],
)
def test_aliases_in_any_case_name_the_device(asked, name):
    assert hardware.device(asked) is not None
    assert hardware.device(asked).name == name


@pytest.mark.parametrize("asked", ["A100", "v100", "gaudi"])
def test_a_name_that_fits_several_devices_lists_them(asked):
    with pytest.raises(SpecError) as caught:
        hardware.device(asked)
    choices = [name for name in DEVICES if name.startswith(asked.lower())]
    choices = [c for c in choices if not c.startswith("a1000")]
    assert all(choice in caught.value.problems[0].fix for choice in choices)
    assert len(choices) >= 2


@pytest.mark.parametrize(
    ("asked", "offered"), [("h100-sx", "h100-sxm"), ("mi300", "mi300x"), ("rtx-4900", "rtx-4090")]
)
def test_an_unknown_device_is_told_the_nearest(asked, offered):
    with pytest.raises(SpecError, match=re.escape(asked)) as caught:
        hardware.device(asked)
    assert offered in caught.value.problems[0].fix


def test_unknown_links_and_grids_and_empty_names_are_spec_errors():
    for lookup, asked in (
        (hardware.link, "nvlink44"),
        (hardware.grid, "atlantis"),
        (hardware.device, ""),
        (hardware.price, "h1000"),
    ):
        with pytest.raises(SpecError):
            lookup(asked)


def test_asking_for_one_device_parses_one_file(monkeypatch):
    read = []
    original = hardware._load
    monkeypatch.setattr(hardware, "_load", lambda path: read.append(path.name) or original(path))
    hardware.device.cache_clear()
    assert hardware.device("L40S").n_sm == 142
    assert hardware.device("H100").n_sm == 132  # through an alias
    assert read == ["l40s.yaml", "h100-sxm.yaml"]


PRICED = sorted(path.stem for path in (FOLDER / "prices").glob("*.yaml"))


@pytest.mark.parametrize("name", PRICED)
def test_every_price_is_dated_sourced_and_of_a_known_device(name):
    assert name in DEVICES
    table = load(FOLDER / "prices" / f"{name}.yaml")
    assert table.keys() <= {"offers", "sources", "purchase"}
    rows = table.get("offers", [])
    assert rows or "purchase" in table
    assert len({row["provider"] for row in rows}) == len(rows), "a provider twice"
    assert {row["source"] for row in rows} == set(table.get("sources", ()))
    assert len(hardware.offers(name)) == len(rows)
    for offer in hardware.offers(name):
        day = datetime.date.fromisoformat(offer.date)
        assert datetime.date(2025, 1, 1) <= day <= datetime.date(2026, 12, 31)
        assert 0.05 < offer.usd_per_hour < 20
        assert len(offer.source) > 10
    if "purchase" in table:
        bought = hardware.purchase(name)
        assert 100 < bought.usd < 50_000
        datetime.date.fromisoformat(bought.date)


def test_the_price_is_the_lower_middle_offer():
    offers = hardware.offers("h100")
    assert [o.usd_per_hour for o in offers] == sorted(o.usd_per_hour for o in offers)
    assert hardware.price("H100") in offers
    assert hardware.price("H100").usd_per_hour == offers[(len(offers) - 1) // 2].usd_per_hour
    even = hardware.offers("mi300x")
    assert len(even) % 2 == 0
    assert hardware.price("mi300x").usd_per_hour == even[len(even) // 2 - 1].usd_per_hour


def test_an_unknown_price_is_none_and_not_a_guess():
    assert hardware.price("gb300") is None
    assert hardware.offers("gb300") == ()
    assert hardware.purchase("h100") is None


def test_grids_cover_the_world_with_years_and_sources():
    regions = load(FOLDER / "grids.yaml")["regions"]
    countries = [code for code in regions if len(code) == 2 and code != "eu"]
    assert len(countries) >= 25
    for code in regions:
        grid = hardware.grid(code)
        assert grid.region == code
        assert 2 < grid.gco2e_per_kwh < 900
        assert 2022 <= grid.year <= 2026
        assert len(grid.source) > 10
    assert hardware.grid("world").gco2e_per_kwh == 485.99
    assert hardware.grid("Germany") == hardware.grid("de") == hardware.grid("DEU")
    assert hardware.grid("no").name == "Norway"  # not the boolean of old YAML
    assert hardware.grid("Singapore").region == "sg"  # the country, not the cloud region


#: system_specs file -> our device
SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb", "a30": "a30", "b200_sxm": "b200", "b300_sxm": "b300",
    "b60": "arc-pro-b60", "gb200": "gb200", "gb300": "gb300", "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm", "l4": "l4", "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
}  # fmt: skip
#: (device, field) -> why we differ by more than 3 %
DIFFERS = {
    ("h100-sxm", "hbm_bytes"): "they state 80 GiB, the driver reports 81,559 MiB",
    ("h200-sxm", "hbm_bytes"): "they read 141 GB as GiB, the driver reports 143,771 MiB",
    ("b200", "hbm_bytes"): "they state 180 GiB, the driver reports 183,359 MiB",
    ("l4", "hbm_bytes"): "they state 24 GiB, the driver reports 23,034 MiB with ECC",
    ("arc-pro-b60", "fp8"): "no native rate: we state none, they fall back to bf16",
    ("a30", "scale_up"): "they leave its NVLink bridge out",
    ("arc-pro-b60", "scale_up"): "none: theirs is PCIe measured with packet headers",
}


@pytest.mark.parametrize(("system", "name"), SYSTEMS.items())
def test_devices_agree_with_aiconfigurator(shared_data, system, name):
    theirs = load(shared_data / "aiconfigurator_ops" / "system_specs" / f"{system}.yaml")
    gpu, node, ours = theirs["gpu"], theirs["node"], hardware.device(name)
    pairs = {
        "hbm_bytes": (ours.hbm_bytes, gpu["mem_capacity"]),
        "hbm_bytes_per_s": (ours.hbm_bytes_per_s, gpu["mem_bw"]),
        "tdp_w": (ours.tdp_w, gpu["power"]),
        "devices_per_node": (ours.devices_per_node, node["num_gpus_per_node"]),
    }
    for dtype, key in (
        ("bf16", "bfloat16_tc_flops"), ("int8", "int8_tc_flops"), ("fp8", "fp8_tc_flops"),
        ("fp4", "fp4_tc_flops"),
    ):  # fmt: skip
        if key in gpu:
            pairs[dtype] = (ours.peak_flop_per_s.get(dtype, math.nan), gpu[key])
    if ours.scale_up:
        rate = hardware.link(ours.scale_up).bandwidth_bytes_per_s
        pairs["scale_up"] = (rate, node["intra_node_bw"])
    far = {f for f, (a, b) in pairs.items() if not abs(a / b - 1) <= 0.03}
    assert far <= {f for n, f in DIFFERS if n == name}, {f: pairs[f] for f in far}


#: neusight device -> our device, and the fields in which theirs is known to be wrong
NEUSIGHT = {
    "AMD_Instinct_MI100": ("mi100", set()),
    "AMD_Instinct_MI210": ("mi210", {"L2Cache"}),  # 8 MiB in AMD's own table
    "AMD_Instinct_MI250": ("mi250-gcd", {"L2Cache"}),
    "NVIDIA_A100-PCIE-40GB": ("a100-pcie-40gb", set()),
    "NVIDIA_A100-SXM4-40GB": ("a100-sxm-40gb", set()),
    "NVIDIA_A100_80GB_PCIe": ("a100-pcie-80gb", set()),
    "NVIDIA_H100_80GB_HBM3": ("h100-sxm", set()),
    "NVIDIA_L4": ("l4", {"Num_Sm", "SingleFLOPs"}),  # 60 is the full die; 58 are enabled
    "Tesla_P100-PCIE-16GB": ("p100-pcie-16gb", {"Freq"}),  # 1,303 MHz on the sheet
    "Tesla_P4": ("p4", {"Num_Sm", "Freq", "SingleFLOPs"}),  # 20 units of 128 lanes; clock is above
    "Tesla_T4": ("t4", set()),
    "Tesla_V100-PCIE-32GB": ("v100-pcie-32gb", set()),
}


@pytest.mark.parametrize(("theirs", "name", "wrong"), [(k, *v) for k, v in NEUSIGHT.items()])
def test_devices_agree_with_neusight(shared_data, theirs, name, wrong):
    specs = json.loads((shared_data / "neusight_ops" / "device_specs.json").read_text())
    row, ours = specs[theirs], hardware.device(name)
    single = row.get("SingleFLOPsMM", row.get("SingleFLOPs"))
    pairs = {
        "Mem_Bw": (ours.hbm_bytes_per_s / 1e9, row["Mem_Bw"]),
        "Num_Sm": (ours.n_sm, row["Num_Sm"]),
        "Freq": (ours.clock_hz / 1e6, row["Freq"]),
        "L2Cache": (ours.l2_bytes / 2**20, row["L2Cache"]),
        "SingleFLOPs": (ours.peak_flop_per_s["fp32"] / 1e9, single),
    }
    far = {f for f, (a, b) in pairs.items() if not abs(a / b - 1) <= 0.03}
    assert far == wrong, {f: pairs[f] for f in far ^ wrong}


def test_a_wrong_device_file_is_told_with_its_line(tmp_path):
    text = (FOLDER / "devices" / "h100-sxm.yaml").read_text("utf-8")
    bad = tmp_path / "devices" / "mine.yaml"
    bad.parent.mkdir()
    bad.write_text(text.replace("tdp_w: 700 W", "tdp_w: 700").replace("n_sm:", "n_smx:"))
    line = text.splitlines().index("tdp_w: 700 W") + 1
    with pytest.raises(SpecError) as caught:
        hardware._described(Device, bad)
    power, key = sorted(caught.value.problems, key=lambda p: "n_smx" in p.what)
    assert f"mine.yaml:{line}" in power.where
    assert "700 W" in power.fix
    assert "n_sm" in key.fix
