"""Calibration files: written whole, read whole or refused, found by device and runtime."""

import json
from dataclasses import replace

import numpy as np
import pytest

from forerun import catalog
from forerun.cost.calibration import Calibration, Errors, Origin, Store, load, save
from forerun.cost.choose import choose
from forerun.cost.chosen import coefs_across, coefs_of
from forerun.cost.families import families, family
from forerun.cost.operators import predict
from forerun.cost.rows import rows
from forerun.cost.sheet import sheet
from forerun.cost.trees import LEAF, STEP, Trees, trees_from
from forerun.errors import SpecError

GEMM = family("gemm")
NAMES = tuple(c.name for c in GEMM.COEFS)
SPREAD = {"under_20us": (-0.2, 0.1), "bandwidth": (-0.1, 0.2), "compute": (-0.05, 0.05)}


def _trees(names=("ridge", "log_m"), left=-100, right=300):
    """One stump on the first feature: `left` steps up to 1.5, `right` beyond."""
    return Trees(
        names, (np.array([1.5], np.float32), np.zeros(0, np.float32)),
        np.array([0, LEAF, LEAF], np.uint8), np.array([0, 0, 0], np.uint8),
        np.array([2, left & 0xFFFF, right], np.uint16), np.array([0], np.int32),
    )  # fmt: skip


def _calibration(**changes):
    given = dict(
        family="gemm", device="h100-sxm", engine="vllm", version="0.24.0", keys=("bf16|", "fp8|x"),
        names=NAMES, coefs=np.array([[c.start for c in GEMM.COEFS]] * 2), spread=SPREAD,
        ranges={"m": (1.0, 8192.0)}, errors=Errors(20, 0.03, 0.1, "a fifth of the shapes held out"),
        origins=(Origin("table", "somebody", "MIT", 100),), date="2026-11-21", trees=_trees(),
        notes=("a note",),
    )  # fmt: skip
    return Calibration(**given | changes)


def _problem(path):
    with pytest.raises(SpecError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert str(path) in problem.where
    assert "fit it anew with `forerun calibrate ops`" in problem.fix
    return problem.what


def _rewritten(path, change):
    """The file with its description changed by `change(meta)`."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(bytes(arrays["meta"]).decode())
    change(meta)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


# -- written and read ------------------------------------------------------------------------------


@pytest.mark.parametrize("trees", [None, _trees()])
def test_what_is_read_writes_the_same_bytes(tmp_path, trees):
    path = save(_calibration(trees=trees), tmp_path)
    body = path.read_bytes()
    again = load(path)
    assert save(again, tmp_path / "again").read_bytes() == body
    assert again.origins[0].licence == "MIT"
    assert again.notes == ("a note",)
    assert again.spread == SPREAD
    assert not list(tmp_path.rglob("*.part"))


def test_trees_say_the_same_after_a_file(tmp_path):
    own = _calibration()
    again = load(save(own, tmp_path))
    features = {"ridge": np.array([0.0, 1.5, 1.6, 9.0]), "log_m": np.zeros(4)}
    assert again.trees(features).tolist() == [v * STEP for v in (-100, -100, 300, 300)]
    assert own.trees(features).tolist() == again.trees(features).tolist()


def test_a_new_fit_takes_the_place_of_the_old_one(tmp_path):
    save(_calibration(), tmp_path)
    path = save(_calibration(date="2027-01-01"), tmp_path)
    assert load(path).date == "2027-01-01"
    assert len(list(tmp_path.rglob("*.npz"))) == 1


@pytest.mark.parametrize("engine", ["my--engine", "a/b", "..", "ver2 beta", "größe", "x--"])
def test_an_engine_may_have_any_name(tmp_path, engine):
    own = _calibration(engine=engine)
    path = save(own, tmp_path)
    assert path.parent == tmp_path / "gemm"  # no name leads out of the folder
    found = Store(tmp_path).measured("gemm", "h100-sxm", engine, "0.24.0", "bf16|")
    assert found[0].engine == engine


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot be written"):
        save(_calibration(), tmp_path / "file")


# -- refused ---------------------------------------------------------------------------------------


def test_a_file_of_another_format_is_refused_with_both_versions(tmp_path):
    path = save(_calibration(), tmp_path)
    what = _problem(_rewritten(path, lambda meta: meta.update(schema=99, written_by="9.9.9")))
    assert "was written by forerun 9.9.9 in format 99" in what
    assert "format 1" in what


def test_a_file_without_a_format_is_refused(tmp_path):
    path = save(_calibration(), tmp_path)
    assert "in format None" in _problem(_rewritten(path, lambda meta: meta.pop("schema")))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(names=["old", *m["names"][1:]]), "other coefficients of gemm"),
        (lambda m: m.update(keys=["bf16", "fp8"]), "other keys of gemm"),
        (lambda m: m.update(family="gemv"), "for the family gemv"),
        (lambda m: m.update(names=m["names"][1:]), "is damaged"),
        (lambda m: m.update(features=["ridge"]), "is damaged"),
        (lambda m: m.pop("spread"), "is damaged"),
        (lambda m: m.update(ranges={"m": 3}), "is damaged"),
        (lambda m: m.update(more=1), "is damaged"),
        (lambda m: m.update(errors={"n": 1}), "is damaged"),
    ],
)
def test_a_file_that_does_not_fit_its_family_is_refused(tmp_path, change, sentence):
    assert sentence in _problem(_rewritten(save(_calibration(), tmp_path), change))


def test_the_coefficients_that_differ_are_named(tmp_path):
    path = save(_calibration(), tmp_path)
    what = _problem(_rewritten(path, lambda m: m.update(names=["old", *m["names"][1:]])))
    assert f"{NAMES[0]}, old" in what or f"old, {NAMES[0]}" in what


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_coefficient_that_cannot_be_is_refused(tmp_path, value):
    own = _calibration()
    own.coefs[1, 0] = value
    assert "is damaged" in _problem(save(own, tmp_path))


@pytest.mark.parametrize(
    "body", [b"", b"PK", b"not an archive", b"\x93NUMPY\x01\x00", b"\x80\x04."]
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, body):
    path = tmp_path / "x.npz"
    path.write_bytes(body)
    assert "is damaged" in _problem(path)


def test_an_array_or_an_archive_of_something_else_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    assert "is damaged" in _problem(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "is damaged" in _problem(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", meta=np.frombuffer(b"[1, 2]", np.uint8))
    assert "is damaged" in _problem(tmp_path / "y.npz")
    assert "there is no such file" in _problem(tmp_path / "z.npz")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = save(_calibration(), tmp_path)
    body = path.read_bytes()
    for cut in range(0, len(body) - 1, 37):
        path.write_bytes(body[:cut])
        assert "is damaged" in _problem(path)


def test_a_file_with_any_byte_changed_is_read_as_it_was_or_refused(tmp_path):
    own = _calibration()
    path = save(own, tmp_path)
    body = path.read_bytes()
    refused = 0
    for at in range(0, len(body), 11):
        path.write_bytes(body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :])
        try:
            found = load(path)
        except SpecError:
            refused += 1
            continue
        assert found.names == own.names
        assert np.array_equal(found.coefs, own.coefs.astype(np.float32))
        assert found.spread == own.spread
    assert refused > 50


@pytest.mark.parametrize(
    "change",
    [
        dict(jump=np.array([9, 0, 0], np.uint16)),  # beyond the end
        dict(jump=np.array([1, 0, 0], np.uint16)),  # its right child is its left one
        dict(feature=np.array([7, LEAF, LEAF], np.uint8)),  # a feature that is not there
        dict(feature=np.array([0, LEAF, 0], np.uint8)),  # no end
        dict(roots=np.array([5], np.int32)),
        dict(roots=np.array([-1], np.int32)),
        dict(cut=np.zeros(2, np.uint8)),
        dict(n_edges=np.array([2, 0], np.uint8)),
    ],
)
def test_trees_that_would_walk_astray_are_refused(change):
    arrays = _trees().arrays() | change
    with pytest.raises(ValueError, match=r"\w"):
        trees_from(("ridge", "log_m"), arrays)


# -- never half-used -------------------------------------------------------------------------------


def _asked():
    x = rows(3, op="gemm", device="h100-sxm", runtime="vllm 0.24.0", m=4096.0, n=512.0, k=512.0)
    x = x.filled(GEMM.DEFAULTS)
    return x, sheet(x)


def test_coefficients_of_another_version_are_refused_where_they_are_used():
    own = _calibration(names=("old", *NAMES[1:]))
    x, s = _asked()
    for use in (
        lambda: coefs_of(own, "bf16|"),
        lambda: coefs_across(x, s, GEMM, replace(own, device="", coefs=own.coefs[:1])),
    ):
        with pytest.raises(SpecError, match="other coefficients of gemm") as caught:
            use()
        assert "fit it anew" in caught.value.problems[0].fix


def test_features_of_another_version_are_refused_where_they_are_used(tmp_path):
    save(_calibration(trees=_trees(("ridge", "a_feature_of_yore"))), tmp_path)
    x, _ = _asked()
    with pytest.raises(SpecError, match="a_feature_of_yore") as caught:
        predict(x, Store(tmp_path))
    assert "fit it anew" in caught.value.problems[0].fix


def test_a_damaged_file_stops_what_needs_it_and_nothing_else(tmp_path):
    path = save(_calibration(), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    x, _ = _asked()
    with pytest.raises(SpecError, match="is damaged"):
        predict(x, Store(tmp_path))
    other = rows(1, op="norm", device="h100-sxm", n_tokens=8.0, width=512.0)
    assert predict(other, Store(tmp_path)).refused.tolist() == [""]


# -- found -----------------------------------------------------------------------------------------


def _found(store, engine, version, key="bf16|", device="h100-sxm"):
    found = store.measured("gemm", device, engine, version, key)
    return found and (found[0].engine, found[0].version, found[1])


def test_the_version_asked_for_comes_first_then_the_newest_then_another_engine(tmp_path):
    for engine, version in (
        ("vllm", "0.9.1"), ("vllm", "0.24.0"), ("vllm", "0.19"), ("trtllm", "1.3.0rc20"),
    ):  # fmt: skip
        save(_calibration(engine=engine, version=version), tmp_path)
    store = Store(tmp_path)
    assert _found(store, "vllm", "0.19")[:2] == ("vllm", "0.19")
    assert _found(store, "vllm", "0.30.0")[:2] == ("vllm", "0.24.0")  # as a number, not a text
    assert _found(store, "trtllm", "")[:2] == ("trtllm", "1.3.0rc20")
    assert _found(store, "sglang", "0.5")[0] in ("vllm", "trtllm")
    assert _found(store, "vllm", "", device="l4") is None


def test_a_key_that_was_not_measured_is_not_answered_by_another(tmp_path):
    save(_calibration(keys=("bf16|", "fp8|x")), tmp_path)
    store = Store(tmp_path)
    assert _found(store, "vllm", "0.24.0", "fp8|x")[2] == "fp8|x"
    assert _found(store, "vllm", "0.24.0", "fp8|")[2] == "fp8|x"  # the part not given is free
    assert _found(store, "vllm", "0.24.0", "fp8|y") is None
    assert _found(store, "vllm", "0.24.0", "int8|") is None


def test_sixteen_bits_are_sixteen_bits(tmp_path):
    h100 = catalog.device("h100-sxm")
    save(_calibration(keys=("bf16|x", "fp8|x")), tmp_path)
    chosen = choose("gemm", h100, "vllm", "0.24.0", "fp16|", Store(tmp_path))
    assert (chosen.key, chosen.other) == ("bf16|x", False)
    assert chosen.told == "measured in bf16, not fp16"
    asked = choose("gemm", h100, "vllm", "0.24.0", "bf16|", Store(tmp_path))
    assert (asked.key, asked.told) == ("bf16|x", "")
    assert choose("gemm", h100, "vllm", "0.24.0", "int8|", Store(tmp_path)).own is None


def test_a_device_s_own_sixteen_bits_come_before_those_of_a_sibling(tmp_path):
    save(_calibration(keys=("bf16|x", "fp8|x")), tmp_path)
    save(_calibration(device="h200-sxm", keys=("fp16|x", "fp8|x")), tmp_path)
    chosen = choose("gemm", catalog.device("h200-sxm"), "vllm", "0.24.0", "bf16|x", Store(tmp_path))
    assert (chosen.own.device, chosen.scaled, chosen.key) == ("h200-sxm", False, "fp16|x")
    assert chosen.told == "measured in fp16, not bf16"


def test_the_first_folder_that_has_a_file_wins(tmp_path):
    save(_calibration(date="mine"), tmp_path / "mine")
    save(_calibration(date="shipped"), tmp_path / "shipped")
    save(_calibration(device="l4", date="shipped"), tmp_path / "shipped")
    store = Store(tmp_path / "mine", tmp_path / "shipped")
    assert store.measured("gemm", "h100-sxm", "vllm", "0.24.0", "bf16|")[0].date == "mine"
    assert store.measured("gemm", "l4", "vllm", "0.24.0", "bf16|")[0].date == "shipped"
    assert len(store.all("gemm")) == 2


@pytest.mark.parametrize(("mine", "shipped", "taken"), [
    (10, 900, "shipped"), (59, 60, "shipped"), (60, 900, "mine"), (10, 9, "mine"),
    (900, 10, "mine"),
])  # fmt: skip
def test_few_rows_of_ones_own_do_not_hide_a_whole_table_of_the_device(
    tmp_path, mine, shipped, taken
):
    keys_of = {"mine": ("bf16|", "fp4|x"), "shipped": ("bf16|", "fp8|x")}
    for name, n in (("mine", mine), ("shipped", shipped)):
        keys = keys_of[name]
        origin = Origin(f"table of {name}", "x", "MIT", n, ("0a",))
        save(_calibration(date=name, keys=keys, origins=(origin,)), tmp_path / name)
    store = Store(tmp_path / "mine", tmp_path / "shipped")

    def answers(key):
        return store.measured("gemm", "h100-sxm", "vllm", "0.24.0", key)[0].date

    assert answers("bf16|") == taken
    assert answers("fp4|x") == "mine"  # what the other one lacks is not lost
    assert answers("fp8|x") == "shipped"
    assert [own.date for own in store.all("gemm")] == [taken]
    assert store.origins() == {"table of mine", "table of shipped"}
    assert store.marks() == {"0a"}


@pytest.mark.parametrize(("mine", "shipped", "taken"), [(10, 900, 900), (900, 10, 900)])
def test_what_is_common_to_devices_comes_from_the_most_rows(tmp_path, mine, shipped, taken):
    for folder, n in (("mine", mine), ("shipped", shipped)):
        general = dict(device="", engine="", version="", keys=("",), coefs=np.ones((1, len(NAMES))))
        save(_calibration(**general, origins=(Origin("x", "y", "MIT", n),)), tmp_path / folder)
    assert Store(tmp_path / "mine", tmp_path / "shipped").general("gemm").rows == taken


def test_names_of_all_tables_are_known(tmp_path):
    save(_calibration(), tmp_path)
    save(_calibration(device="", engine="", version="", keys=("",), coefs=np.ones((1, len(NAMES))),
                      origins=(Origin("other", "x", "MIT", 3),)), tmp_path)  # fmt: skip
    store = Store(tmp_path)
    assert store.origins() == {"table", "other"}
    assert store.general("gemm").label == "across devices, 3 rows of others"
    assert store.general("moe") is None


def test_what_ships_is_read_whole_and_small():
    from forerun.cost.calibration import SHIPPED

    if not SHIPPED.is_dir():
        pytest.skip("nothing ships yet")
    files = sorted(SHIPPED.rglob("*.npz"))
    assert sum(path.stat().st_size for path in files) < 5e6
    for path in files:
        own = load(path)
        assert own.family == path.parent.name
        assert own.file_name == path.name
        assert own.origins
        assert all(origin.origin and origin.licence for origin in own.origins)
        assert own.errors.split or own.notes  # how far it is off, or that nobody knows
        assert own.family in families()
