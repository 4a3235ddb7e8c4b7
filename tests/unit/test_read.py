"""Cases from files, flags and variables: every mistake with its place, all at once."""

import io
import sys
import textwrap

import jsonschema
import pytest
from ruamel.yaml import YAML

from forerun.errors import SpecError
from forerun.spec import read as reading
from forerun.spec.case import Case
from forerun.spec.schema import KINDS, schema

GOOD = """\
model: llama-3.1-8b
fleet: {h100-sxm: 4}
traffic: {isl: 1000, osl: 200, rate_per_s: 4 req/s, n_requests: 9}
slo: {ttft_s: 500 ms, tpot_s: 50 ms}
deployment:
  device: h100-sxm
  tp: 2
  replicas: 2
  engine: {max_num_seqs: 128}
  route: round_robin
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """No forerun.yaml, no settings and no variables but a test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("FORERUN_CONFIG_DIR", raising=False)


def _write(text, name="forerun.yaml"):
    with open(name, "w", encoding="utf-8") as file:
        file.write(textwrap.dedent(text))
    return name


def _load(text, overrides=(), **how):
    return reading.load(_write(text), overrides, env=how.pop("env", {}), **how)


def _problems(text, overrides=(), **how):
    with pytest.raises(SpecError) as caught:
        _load(text, overrides, **how)
    return [str(problem) for problem in caught.value.problems]


def test_the_short_forms_mean_what_the_long_ones_say():
    long = Case(
        model="llama-3.1-8b",
        fleet={"devices": {"h100-sxm": {"count": 4}}},
        traffic={
            "isl": {"kind": "fixed", "mean": 1000},
            "osl": {"kind": "fixed", "mean": 200},
            "rate_per_s": 4.0,
            "n_requests": 9,
        },
        slo={"ttft_s": 0.5, "tpot_s": 0.05},
        deployment={
            "pools": [
                {
                    "device": "h100-sxm",
                    "tp": 2,
                    "replicas": 2,
                    "engine": {"max_num_seqs": 128},
                }
            ],
            "route": {"name": "round_robin"},
        },
    )
    assert _load(GOOD) == long
    assert _load(GOOD).content_hash() == long.content_hash()


def test_json_is_read_as_the_yaml_it_is(tmp_path):
    text = '{"model": "m", "fleet": "h100-sxm:4", "traffic": {"trace": "chat"}}'
    assert _load(text).fleet.devices["h100-sxm"].count == 4


def test_a_dash_reads_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert reading.load("-", env={}).model == "llama-3.1-8b"


def test_a_mapping_is_a_case_too():
    data = YAML(typ="safe").load(GOOD)
    assert reading.load(data, env={}) == _load(GOOD)


def test_all_mistakes_come_at_once_in_the_order_of_the_lines():
    text = """\
    model: llama-3.1-8b
    fleet: {h100-sxm: 4, l4: {cuont: 3}}
    slo:
      ttft_s: 500
      tpot: 50 ms
      itl_s: -3 ms
    trafic: {trace: chat}
    deployment:
      device: h100-sxm
      tp: x
      engine: {max_num_seqs: 0, reserve: chnuk, host_step_s: 3 GB}
      rout: random
    """
    assert _problems(text) == [
        "forerun.yaml:1:1 traffic: is missing\n  try: traffic: {trace: chat}",
        "forerun.yaml:2:26 fleet.l4.count: is missing\n  try: count: 4",
        "forerun.yaml:2:27 fleet.l4.cuont: unknown key 'cuont'\n  try: did you mean count?",
        "forerun.yaml:4:11 slo.ttft_s: '500' has no unit\n  try: 500 ms",
        "forerun.yaml:5:3 slo.tpot: unknown key 'tpot'\n  try: did you mean tpot_s?",
        "forerun.yaml:6:10 slo.itl_s: must be greater than 0, is -3 ms\n  try: 500 ms",
        "forerun.yaml:7:1 trafic: unknown key 'trafic'\n  try: did you mean traffic?",
        "forerun.yaml:10:7 deployment.tp: expected a whole number, found 'x'",
        "forerun.yaml:11:26 deployment.engine.max_num_seqs: must be at least 1, is 0\n  try: 1",
        "forerun.yaml:11:38 deployment.engine.reserve: 'chnuk' is not a value of reserve\n"
        "  try: did you mean chunk? (one of: chunk, prompt, full)",
        "forerun.yaml:11:58 deployment.engine.host_step_s: 'GB' is not a unit of time\n"
        "  try: 500 ms",
        "forerun.yaml:12:3 deployment.rout: unknown key 'rout'\n  try: did you mean route or role?",
    ]


_REST = "fleet: {l4: 1}\ntraffic: {trace: chat}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "forerun.yaml: the file is empty\n  try: forerun init chat writes a whole case"),
        ("# only a remark\n", "forerun.yaml: the file is empty\n"),
        (
            "- 1\n- 2\n",
            "forerun.yaml:1:1: expected keys and values, found a list\n"
            "  try: begin with `model: llama-3.1-8b`",
        ),
        ("hello\n", "forerun.yaml:1:1: expected keys and values, found a single value\n"),
        (
            "model: m\nslo:\n\tttft_s: 1 s\n",
            "forerun.yaml:3:1: a tab indents this line\n"
            "  try: indent with spaces; YAML allows no tabs",
        ),
        (
            "model: a\n" + _REST + "model: b\n",
            "forerun.yaml:4:1 model: key given twice, first in line 1\n  try: keep one of them",
        ),
        ("model: [a\n", "forerun.yaml:2:1: the file ends too early\n"),
        ("model: a\n  fleet: b\n", "forerun.yaml:2:8: a key is not expected here\n"),
        ("model: a\n---\nmodel: b\n", "forerun.yaml:2:1: a second document begins here\n"),
        ("a: &x [*x]\n", "forerun.yaml:1:4 a[0][0]"),
        ("model: 3\n" + _REST, "forerun.yaml:1:8 model: expected a text, found 3"),
        (
            "model: m\nfleet: {l4: many}\ntraffic: {trace: chat}\n",
            "forerun.yaml:2:13 fleet.l4: expected keys and values, found 'many'",
        ),
        (
            "model: m\nfleet: {l4: 0}\ntraffic: {trace: chat}\n",
            "forerun.yaml:2:13 fleet.l4: must be at least 1, is 0\n  try: 1",
        ),
        (
            "model: m\nfleet: l4:x\ntraffic: {trace: chat}\n",
            "forerun.yaml:2:8 fleet: 'l4:x' is not a device with a count\n"
            "  try: h100-sxm:4, or several: h100-sxm:4,l4:8",
        ),
        (
            "model: m\nfleet: {}\ntraffic: {trace: chat}\n",
            "forerun.yaml:2:8 fleet: holds no device\n  try: fleet: {h100-sxm: 4}",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {isl: 10, osl: 2, rate_per_s: 0 /s}\n",
            "forerun.yaml:3:40 traffic.rate_per_s: must be greater than 0, is 0 /s\n  try: 4 req/s",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {isl: .nan, osl: 2}\n",
            "forerun.yaml:3:16 traffic.isl: must be at least 1, is nan\n  try: 1",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {isl: 10, osl: 2, arrivals: poison}\n",
            "forerun.yaml:3:38 traffic.arrivals: 'poison' is not a value of arrivals\n"
            "  try: did you mean poisson?",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {isl: 10, rate_per_s: 1 /s, n_requests: 9}\n",
            "forerun.yaml:3:10 traffic.osl: missing: without a trace, lengths must be said\n"
            "  try: osl: 500",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {trace: chat, osl: 2}\n",
            "forerun.yaml:3:29 traffic.osl: given together with a trace, which has its own osl\n"
            "  try: drop one",
        ),
        (
            "model: m\nfleet: l4\ntraffic: {isl: 1, osl: 2, rate_per_s: 4 /s, concurrency: 3}\n",
            "forerun.yaml:3:39 traffic.rate_per_s: given together with concurrency\n",
        ),
        (
            "model: m\n" + _REST + "slo: {attainment: 2}\n",
            "forerun.yaml:4:19 slo.attainment: must be at most 1, is 2\n  try: 1",
        ),
        (
            "model: m\n" + _REST + "deployment: {device: h100}\n",
            "forerun.yaml:4:22 deployment.device: h100 is not in the fleet\n  try: one of: l4",
        ),
        (
            "model: m\n" + _REST + "deployment: {device: l4, tp: 2, replicas: 3}\n",
            "forerun.yaml:4:43 deployment.replicas: 6 x l4 are used (3 replicas of 2), "
            "the fleet has 1\n  try: a layout of at most 1 devices",
        ),
        (
            "model: m\nfleet: l4:8\ntraffic: {trace: chat}\n"
            "deployment: {device: l4, tp: 4, replicas: 3}\n",
            "forerun.yaml:4:43 deployment.replicas: 12 x l4 are used (3 replicas of 4), "
            "the fleet has 8\n  try: replicas: 2",
        ),
        (
            "model: m\n" + _REST + "deployment: {pools: []}\n",
            "forerun.yaml:4:21 deployment.pools: is empty\n",
        ),
        (
            "model: m\n" + _REST + "deployment: {tp: 1}\n",
            "forerun.yaml:4:13 deployment.device: is missing\n  try: device: l4",
        ),
        (
            "model: m\nfleet: l4:2\ntraffic: {trace: chat}\n"
            "deployment: {pools: [{device: l4}, {device: l4}]}\n",
            "forerun.yaml:4:36 deployment.pools[1].name: 'main' is the name of an earlier pool",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_repair(text, sentence):
    problems = _problems(text)
    assert any(problem.startswith(sentence) for problem in problems), problems


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"model: a\nname: caf\xe9\n")
    with pytest.raises(SpecError, match=r"c.yaml:2: byte 18 \(0xe9\) is not UTF-8"):
        reading.load("c.yaml", env={})


def test_a_file_that_is_not_there_or_is_a_folder_is_said_so(tmp_path):
    with pytest.raises(SpecError, match=r"^nope.yaml: no such file\n  try: check the path$"):
        reading.load("nope.yaml", env={})
    with pytest.raises(SpecError, match="is a folder, not a file"):
        reading.load(str(tmp_path), env={})


def test_a_bare_number_in_a_file_is_refused_and_in_python_is_si():
    assert "'4' has no unit\n  try: 4 req/s" in _problems(GOOD.replace("4 req/s", "4"))[0]
    assert Case(model="m", fleet="l4", traffic={"rate_per_s": 4}).traffic.rate_per_s == 4


def test_a_wrong_quantity_does_not_hide_the_other_mistakes_of_its_model():
    problems = _problems(GOOD.replace("500 ms", "500").replace("tpot_s: 50 ms", "tpot_s: 0 s"))
    assert len(problems) == 2


def test_set_changes_one_value_by_the_key_a_user_knows():
    overrides = (
        "fleet.h100-sxm.count=8",
        "deployment.tp=4",
        "deployment.engine.batch.params.budget=512",
        "traffic.isl.cv=0.5",
        "traffic.isl.kind=lognormal",
        "slo.tpot_s=null",
        "seed=7",
    )
    case = _load(GOOD, overrides)
    assert case.fleet.devices["h100-sxm"].count == 8
    assert case.deployment.pools[0].tp == 4
    assert case.deployment.pools[0].engine.max_num_seqs == 128
    assert case.deployment.pools[0].engine.batch.params == {"budget": 512}
    assert case.deployment.pools[0].engine.batch.name == "chunked"
    assert case.traffic.isl.mean == 1000
    assert case.traffic.isl.cv == 0.5
    assert case.slo.tpot_s is None
    assert case.seed == 7


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("fleet", "--set fleet: is not of the form key=value\n  try: --set fleet.h100-sxm.count=4"),
        ("slo.ttft_s=500", "--set slo.ttft_s slo.ttft_s: '500' has no unit\n  try: 500 ms"),
        ("slo.tftf_s=1 s", "--set slo.tftf_s slo.tftf_s: unknown key 'tftf_s'\n"),
        ("seed.x=1", "--set seed.x: seed has no keys below it\n  try: --set seed=..."),
        ("deployment.pools.3.tp=1", "--set deployment.pools.3.tp: 'deployment.pools.3.tp' is not"),
        ("fleet={h100-sxm: [}", "--set fleet: '{h100-sxm: [}' cannot be read\n  try: quote it"),
    ],
)
def test_a_wrong_override_is_named_by_itself(override, sentence):
    text = GOOD.replace("model", "seed: 1\nmodel", 1)
    assert any(p.startswith(sentence) for p in _problems(text, (override,))), _problems(
        text, (override,)
    )


def test_an_override_of_one_of_several_pools_must_say_which():
    text = (
        "model: m\nfleet: l4:4\ntraffic: {trace: chat}\n"
        "deployment: {pools: [{name: a, device: l4}, {name: b, device: l4}]}\n"
    )
    sentence = "--tp: the deployment has 2 pools: which one?\n  try: --set deployment.pools.0.tp="
    assert _problems(text, flags={"tp": "2"})[0].startswith(sentence)
    assert _load(text, ("deployment.pools.1.tp=2",)).deployment.pools[1].tp == 2


def test_flag_beats_variable_beats_file_beats_settings_beats_default(tmp_path):
    _write("seed: 1\nname: mine\nbudget: {usd_per_hour: 9 USD/h}\n", "config.yaml")
    _write(GOOD + "seed: 2\n")

    def seed(flags, env, source="forerun.yaml"):
        return reading.load(source, flags=flags, env=env, config="config.yaml").seed

    assert seed({"seed": "4"}, {"FORERUN_SEED": "3"}) == 4
    assert seed({}, {"FORERUN_SEED": "3"}) == 3
    assert seed({}, {}) == 2
    assert seed({}, {}, None) == 2  # forerun.yaml of the working directory is found by itself
    _write(GOOD)
    assert seed({}, {}) == 1
    assert reading.load("forerun.yaml", env={}).seed == 0
    assert reading.load("forerun.yaml", env={}, config="config.yaml").name == "mine"


def test_a_nearer_file_replaces_a_whole_key_of_a_farther_one():
    _write("traffic: {trace: chat}\n", "config.yaml")
    case = reading.load(_write(GOOD), env={}, config="config.yaml")
    assert case.traffic.trace is None


def test_explain_says_where_each_value_is_from():
    _write(GOOD)
    rows = {
        key: (value, origin)
        for key, value, origin in reading.read(
            "forerun.yaml",
            ("fleet.h100-sxm.count=8",),
            flags={"ttft": "1 s"},
            env={"FORERUN_RATE": "7"},
        ).explain()
    }
    assert rows["model"] == ("llama-3.1-8b", "forerun.yaml:1:8")
    assert rows["fleet.devices.h100-sxm.count"] == ("8", "--set fleet.h100-sxm.count")
    assert rows["slo.ttft_s"] == ("1 s", "--ttft")
    assert rows["traffic.rate_per_s"] == ("7 /s", "FORERUN_RATE")
    assert rows["traffic.isl.mean"] == ("1000.0", "forerun.yaml:3:16")
    assert rows["deployment.pools.0.tp"] == ("2", "forerun.yaml:7:7")
    assert rows["deployment.route.name"] == ("round_robin", "forerun.yaml:10:10")
    assert rows["deployment.pools.0.pp"] == ("1", "default")
    assert rows["seed"] == ("0", "default")


def test_flags_alone_make_a_case():
    flags = {
        "model": "m",
        "fleet": "H100:8, l4:2",
        "isl": "100",
        "osl": "30",
        "rate": "3",
        "n-requests": "5",
    }
    case = reading.load(flags=flags, env={})
    assert {name: group.count for name, group in case.fleet.devices.items()} == {"H100": 8, "l4": 2}
    assert case.traffic.rate_per_s == 3


def test_wishes_for_a_deployment_without_a_device_are_kept_apart():
    flags = {"model": "m", "fleet": "l4:8", "trace": "chat", "tp": "2"}
    found = reading.read(flags=flags, env={})
    assert found.case.deployment is None
    assert found.wishes.pools[0].tp == 2
    assert found.wishes.pools[0].model_fields_set == {"tp", "device"}


def test_wishes_do_not_hide_mistakes_in_the_rest_of_the_case():
    flags = {"model": "m", "fleet": "l4:8", "isl": "100", "rate": "1", "duration": "9 s", "tp": "2"}
    with pytest.raises(SpecError, match="osl: missing"):
        reading.read(flags=flags, env={})


def test_names_are_resolved_and_unknown_ones_join_the_other_mistakes():
    def resolve(kind, name):
        known = {"h100": "h100-sxm", "h100-sxm": "h100-sxm", "round_robin": "round_robin"}
        if kind == "model":
            return name
        if name not in known:
            raise SpecError.one(name, f"no {kind} {name!r}", "did you mean h100-sxm?")
        return known[name]

    text = GOOD.replace("{h100-sxm: 4}", "{h100: 4, h1000: 1}").replace("500 ms", "500")
    assert _problems(text, resolve=resolve) == [
        "forerun.yaml:2:18 fleet.h1000: no device 'h1000'\n  try: did you mean h100-sxm?",
        "forerun.yaml:4:15 slo.ttft_s: '500' has no unit\n  try: 500 ms",
    ]


def test_a_name_is_replaced_by_the_catalogs_own():
    case = _load(GOOD.replace("h100-sxm", "H100"), resolve=lambda kind, name: name.lower())
    assert set(case.fleet.devices) == {"h100"}
    assert case.deployment.pools[0].device == "h100"


def test_one_device_under_two_of_its_names_is_a_mistake():
    text = GOOD.replace("{h100-sxm: 4}", "{h100-sxm: 4, h100: 4}")
    problems = _problems(text, resolve=lambda kind, n: "h100-sxm" if kind == "device" else n)
    assert problems == [
        "forerun.yaml:2:22 fleet.h100: h100 is h100-sxm, which is given already\n"
        "  try: add the counts"
    ]


def test_a_caller_may_do_without_what_it_does_not_need():
    text = "model: m\nfleet: l4\ntraffic: {isl: 10, osl: 2}\n"
    assert len(_problems(text)) == 2
    case = _load(text, may_lack=("traffic.rate_per_s", "traffic.n_requests"))
    assert case.traffic.rate_per_s is None


def test_paths_in_a_file_are_relative_to_that_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "t.csv").write_text("x")
    _write("model: m\nfleet: l4\ntraffic: {trace: t.csv}\n", "sub/case.yaml")
    assert reading.load("sub/case.yaml", env={}).traffic.trace == "sub/t.csv"


@pytest.mark.parametrize("kind", KINDS)
def test_every_schema_is_a_schema(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))


def test_the_schema_agrees_with_the_reader_on_good_and_bad_files():
    validator = jsonschema.Draft202012Validator(schema("case"))

    def accepts(text):
        return validator.is_valid(YAML(typ="safe").load(text))

    assert accepts(GOOD)
    assert accepts("model: m\nfleet: H100:8\ntraffic: {trace: chat}\n")
    for old, new in (
        ("500 ms", "500"),
        ("500 ms", "500 GB"),
        ("tp: 2", "tp: 0"),
        ("route:", "rout:"),
        ("model:", "modle:"),
        ("h100-sxm: 4", "h100-sxm: 0"),
    ):
        assert not accepts(GOOD.replace(old, new)), new
