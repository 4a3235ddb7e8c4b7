"""A layer profile becomes a cost table: sums of kernels, mixed steps, unequal contexts."""

import csv

import numpy as np
import pytest

from forerun import catalog
from forerun.cost import layer_files, layer_profile
from forerun.cost.step import step_time, step_work
from forerun.errors import SpecError
from forerun.sim import serve
from forerun.sim.setup import Served
from forerun.spec.deployment import Engine, Pool
from forerun.spec.moe import ExpertRun
from forerun.spec.requests import Requests

MODEL = catalog.model("llama-3.1-8b")  # 32 layers
DEVICE = catalog.device("rtx-pro-6000")
POOL = Pool(device=DEVICE.name, engine=Engine(max_num_seqs=16, max_num_batched_tokens=512))
CHUNKS, PAST, COUNTS, CTX = (16, 64, 256, 512), (0, 128, 1024), (1, 4, 16), (16, 256, 2048)


def attention_us(q, p, n, c):
    """A made-up kernel: 5 us a launch; decoding 0.01 us a cached token, 1.5 times that if mixed."""
    if q == 0:
        return 5 + 0.01 * n * c
    return 5 + 0.02 * (q - 16) + 1e-4 * q * p + 0.015 * n * c + 1e-3 * n * (q - 16)


def written(folder, *, skew=False, moe=False):
    def put(name, header, rows):
        with (folder / f"{name}.csv").open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(header)
            writer.writerows(rows)

    put("dense", ("layer", "tokens", "time_us"),
        [(layer, t, us * (1 + t / 100)) for layer, us in
         (("qkv_proj", 10), ("layernorm", 1), ("final_layernorm", 2), ("embedding", 3))
         for t in (1, 100, 512)])  # fmt: skip
    put("per_sequence", ("layer", "sequences", "time_us"), [("lm_head", s, 100) for s in (1, 16)])
    shots = [(q, p, 0, 0) for q in CHUNKS for p in PAST]
    shots += [(0, 0, n, c) for n in COUNTS for c in CTX]
    shots += [(q, p, n, c) for q in CHUNKS for p in PAST for n in COUNTS for c in CTX]
    put("attention", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
        [(*shot, attention_us(*shot)) for shot in shots])  # fmt: skip
    if skew:
        names = ("regime", "n", "kv_big", "kv_mean", "t_mean_us", "t_max_us", "t_skew_us")
        put("skew", names, [(r, n, 400, 100, 10, 40, 13) for r in ("pure", "mixed")
                            for n in (2, 16)])  # fmt: skip
    if moe:
        put("moe", ("tokens", "activated_experts", "time_us"),
            [(t, e, 10 + t + 2 * e) for t in (1, 64, 512) for e in (8, 64, 128)])  # fmt: skip
    return layer_files.read(folder)


def table_of(folder, **how):
    longest = how.pop("longest", None)
    return layer_profile.cost_table(
        written(folder, **how), MODEL, POOL, DEVICE, max_len=4096, longest=longest
    )


def test_a_decode_step_is_the_sum_of_its_kernels(tmp_path):
    table = table_of(tmp_path)
    # 4 tokens: 32 qkv, 64 layernorms, one final norm, one embedding, each 1.04 of its base;
    # the LM head once; attention of 4 requests at 256 tokens in 32 layers
    linear = 1.04 * (32 * 10 + 64 * 1 + 2 + 3)
    attention = 32 * (5 + 0.01 * 4 * 256)
    took = step_time(table, n_tokens=4, n_seqs=4, decode_ctx=256.0)
    assert took.value == pytest.approx(1e-6 * (linear + 100 + attention), rel=1e-6)
    assert took.source == "measured, interpolated"


def test_a_chunk_beside_decoding_requests_makes_them_dearer(tmp_path):
    table = table_of(tmp_path)
    parts = {"n_tokens": 4 + 64, "n_seqs": 4, "n_decode": 4, "decode_ctx": 256.0}
    mixed = step_work(table, table.time_s, chunks=[(64, 128)], **parts)
    linear = 1e-6 * (1 + 68 / 100) * (32 * 10 + 64 + 2 + 3) + 1e-4
    assert mixed - linear == pytest.approx(32e-6 * attention_us(64, 128, 4, 256), rel=1e-3)
    apart = step_work(table, table.time_s, **parts)
    alone = step_work(table, table.time_s, n_tokens=0, n_seqs=0, chunks=[(64, 128)])
    assert mixed > 1.02 * (apart + alone)


def test_the_core_takes_the_steps_that_the_table_says(tmp_path):
    table = table_of(tmp_path)
    served = Served(pool=POOL, table=table, n_blocks=4000, max_len=4096)
    # the first decodes at 101 tokens when the second's 64 are computed beside it
    requests = Requests(np.array([0.0, 1e-6]), np.array([100, 64]), np.array([4, 1]))
    log = serve.run(requests, [served])
    leap = log.leaps[1]
    assert (leap["n_decode"], leap["chunk"], leap["ctx"]) == (1, 64, 100)
    said = step_time(table, n_tokens=65, n_seqs=2, n_decode=1, decode_ctx=100.0, chunks=[(64, 0)])
    assert leap["first_ps"] * 1e-12 == pytest.approx(said.value, rel=1e-9)


def test_leaps_and_steps_agree_with_mixed_steps(tmp_path):
    served = Served(pool=POOL, table=table_of(tmp_path), n_blocks=4000, max_len=4096)
    rng = np.random.default_rng(2)
    n = 60
    requests = Requests(
        np.cumsum(rng.exponential(0.02, n)), rng.integers(1, 1500, n), rng.integers(1, 60, n)
    )
    logs = [serve.run(requests, [served], leap=leap).requests for leap in (True, False)]
    assert np.array_equal(logs[0], logs[1])


def test_the_longest_of_more_requests_is_longer_and_of_equal_ones_is_the_mean():
    same = Requests(np.zeros(3), np.full(3, 5000), np.full(3, 1))
    assert layer_profile.longest_to_mean(same, 8) == pytest.approx(np.ones(9), rel=1e-3)
    mixed = Requests(np.zeros(2), np.array([100, 4000]), np.array([50, 50]))
    ratio = layer_profile.longest_to_mean(mixed, 64)
    assert ratio[0] == ratio[1] == 1.0
    assert (np.diff(ratio[1:]) >= -1e-12).all()
    # half of all steps are of the short one: the mean is 2075, the longest tends to 4050
    assert ratio[64] == pytest.approx(4047 / 2075, rel=1e-2)


def test_unequal_contexts_cost_the_measured_share_of_the_longest(tmp_path):
    even = table_of(tmp_path, skew=True)
    longest = np.full(17, 2.0)
    uneven = table_of(tmp_path, skew=True, longest=longest)
    at = {"n_tokens": 4, "n_seqs": 4, "n_decode": 4, "decode_ctx": 256.0}
    more = step_work(uneven, uneven.time_s, **at) - step_work(even, even.time_s, **at)
    # alpha = (13 - 10)/(40 - 10) = 0.1 of what twice the context costs more
    assert more == pytest.approx(0.1 * 32e-6 * 0.01 * 4 * 256, rel=1e-6)


def test_experts_are_read_at_as_many_as_the_tokens_wake(tmp_path):
    model = catalog.model("qwen3-30b-a3b")  # 48 layers, 8 of 128 experts
    how = {"max_len": 4096}
    with pytest.raises(SpecError, match=r"has no moe\.csv"):
        layer_profile.cost_table(written(tmp_path), model, POOL, DEVICE, **how)
    dense = layer_profile.cost_table(written(tmp_path), MODEL, POOL, DEVICE, **how)
    table = layer_profile.cost_table(written(tmp_path, moe=True), model, POOL, DEVICE, **how)
    # one token wakes 8 experts: 10 + 1 + 16 us a layer
    expected = 48 * (10 * 1.01 + 27 + 5) + 1.01 * (96 + 5)
    assert table.time_s.tokens[1] == pytest.approx(1e-6 * expected, rel=1e-3)
    assert table.time_s.tokens[64] > table.time_s.tokens[1] > dense.time_s.tokens[1]
    alike = POOL.model_copy(update={"moe": ExpertRun(distribution="uniform")})
    uniform = layer_profile.cost_table(written(tmp_path, moe=True), model, alike, DEVICE, **how)
    assert uniform.time_s.tokens[1] == pytest.approx(table.time_s.tokens[1])
    assert uniform.time_s.tokens[32] > 1.02 * table.time_s.tokens[32]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("attention", "prefill_chunk,kv_prefill,n_decode,time_us\n1,0,0,3\n", "kv_decode"),
        ("dense", "layer,tokens,time_us\nqkv_proj,1,0\n", "no time"),
        ("dense", "layer,tokens,time_us\nqkv_proj,1,fast\n", "no number"),
    ],
)
def test_a_table_that_cannot_be_used_names_the_column_or_the_row(tmp_path, name, text, what):
    written(tmp_path)
    (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(SpecError, match=what):
        layer_files.read(tmp_path)


def test_a_folder_without_tables_says_what_belongs_there(tmp_path):
    with pytest.raises(SpecError, match=r"has no dense\.csv"):
        layer_files.read(tmp_path)
