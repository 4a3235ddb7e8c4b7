"""Laws of costs: more work never costs less, splits conserve it, neutral knobs do nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun.catalog import device, devices, model, models
from forerun.cost.calibration import Store
from forerun.cost.collectives import wires
from forerun.cost.costs import Costs
from forerun.cost.memory import measure
from forerun.cost.price import price
from forerun.cost.step import step_time
from forerun.errors import ShapeError
from forerun.ops.attention import attention_prefill, causal_pairs
from forerun.ops.check import check_layout
from forerun.ops.lower import lower
from forerun.ops.matmul import Matmul
from forerun.ops.ssm import Scan
from forerun.spec.deployment import Pool
from forerun.spec.model import Dense, Gqa, Layers, Linear, Mla, Model, Moe

NAMED = [
    "llama-3.1-8b", "gemma-3-4b", "gpt-oss-20b", "mixtral-8x7b", "deepseek-v2-lite",
    "llama-4-scout", "nemotron-h-8b", "deepseek-v4-flash", "deepseek-v3.2",
    "kimi-linear-48b-a3b", "falcon-7b",
    "opt-350m", "qwen3-next-80b-a3b", "minimax-m1",
]  # fmt: skip
HARDWARE = ["h100-sxm", "a100-sxm-80gb", "v100-sxm-32gb", "l4", "mi300x", "b200", "rtx-4090",
            "tpu-v5e", "m4-max", "gaudi2", "xeon-8480plus"]  # fmt: skip


@st.composite
def models_made(draw):
    """Small random models: any mixer, any feed-forward part, heads in powers of two."""
    heads = 2 ** draw(st.integers(2, 5))
    kv = 2 ** draw(st.integers(0, int(np.log2(heads))))
    width = draw(st.sampled_from([32, 64, 128]))
    mixer = draw(st.sampled_from([
        Gqa(n_heads=heads, n_kv_heads=kv, head_dim=width),
        Gqa(n_heads=heads, n_kv_heads=kv, head_dim=width, window=256, sinks=True),
        Gqa(n_heads=heads, n_kv_heads=kv, head_dim=width, sparse_topk=300, index_heads=4,
            index_dim=32),
        Mla(n_heads=heads, q_lora_rank=256, kv_lora_rank=128, nope_dim=width, rope_dim=32,
            v_head_dim=width),
        Linear(kind=draw(st.sampled_from(["mamba2", "gdn", "kda", "lightning"])), n_heads=heads,
               n_k_heads=kv, k_dim=width, v_dim=width, conv=4),
    ]))  # fmt: skip
    ffn = draw(st.sampled_from([
        Dense(inter=2048), Dense(inter=1024, gated=False, bias=True),
        Moe(inter=512, n_experts=16, topk=2, n_shared=1, shared_inter=512),
    ]))  # fmt: skip
    return Model(
        name="made", hidden=512, vocab=4096, max_len=4096, source="made for tests",
        layers=(Layers(n=draw(st.integers(1, 4)), mixer=mixer, ffn=ffn),),
    )  # fmt: skip


def layouts(m: Model):
    moe = any(isinstance(g.ffn, Moe) for g in m.layers)
    return [{}, {"tp": 2}, {"tp": 4}, {"dp": 2}, {"cp": 2}] + (
        [{"dp": 4, "ep": 4}, {"tp": 2, "dp": 2, "ep": 2}, {"tp": 4, "ep": 4}] if moe else []
    )


def check_monotone(t) -> None:
    """Every part of every quantity is finite, non-negative, and grows along each of its axes."""
    for name in ("time_s", "flop", "hbm_bytes", "link_bytes", "energy_j"):
        work = getattr(t, name)
        for part in ("tokens", "seqs", "decode", "prefill"):
            values = getattr(work, part)
            assert np.isfinite(values).all(), (name, part)
            assert (values >= 0).all(), (name, part)
            for axis in range(values.ndim):
                step = np.diff(values, axis=axis)
                slack = 1e-9 * values.max(initial=0)
                assert (step >= -slack).all(), (name, part, axis, step.min())
        assert work.tokens[0] == work.seqs[0] == 0
        assert not work.decode[0].any()
        assert not work.prefill[0].any()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_more_work_never_costs_less(data):
    m = data.draw(models_made())
    on = device(data.draw(st.sampled_from(HARDWARE)))
    layout = data.draw(st.sampled_from(layouts(m)))
    layout |= {"dtype": data.draw(st.sampled_from([None, "fp8", "int4_wo"]))}
    if max(layout.get("tp", 1), layout.get("dp", 1), layout.get("cp", 1)) > 1 and (
        on.devices_per_node < 4
    ):
        on = device("h100-sxm")
    graph = lower(m, Pool(device=on.name, **layout))
    check_monotone(price(graph, on, max_tokens=2600, max_seqs=48, max_len=4096))


@pytest.mark.parametrize("name", NAMED)
def test_more_work_never_costs_less_in_the_catalog(name):
    graph = lower(model(name), Pool(device="h100-sxm"))
    check_monotone(price(graph, device("h100-sxm"), max_tokens=3000, max_seqs=64, max_len=32768))


def test_every_device_prices_every_kind_of_model():
    for on in devices():
        d = device(on)
        for name in ("llama-3.2-1b", "gpt-oss-20b"):
            graph = lower(model(name), Pool(device=on))
            t = price(graph, d, max_tokens=64, max_seqs=8, max_len=1024)
            assert np.isfinite(t.time_s.tokens).all(), on
            assert 0 < t.low < 1 < t.high, on


def test_every_model_of_the_catalog_is_priced_and_measured():
    for name in models():
        m, d = model(name), device("h100-sxm")
        graph = lower(m, Pool(device="h100-sxm"))
        t = price(graph, d, max_tokens=64, max_seqs=8, max_len=2048)
        assert step_time(t, n_tokens=1, n_seqs=1, decode_ctx=100).value > 0, name
        assert measure(m, Pool(device="h100-sxm"), d).weights_bytes > 0, name


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 4096), k=st.integers(1, 4096), on=st.sampled_from(HARDWARE),
    dtype=st.sampled_from(["bf16", "fp8", "int4_wo", "nvfp4"]),
)  # fmt: skip
def test_a_product_grows_with_its_rows(n, k, on, dtype):
    costs = Costs(device(on), wires(device(on)), store=Store())
    times = costs.by_tokens(Matmul(n, k, dtype), np.arange(600.0))
    assert times[0] == 0
    assert (np.diff(times) >= -1e-15).all()


@settings(max_examples=200, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 500), min_size=1, max_size=8), past=st.integers(0, 5000),
    window=st.one_of(st.none(), st.integers(1, 3000)),
)  # fmt: skip
def test_chunks_of_a_prompt_add_up_to_the_whole(cuts, past, window):
    whole = causal_pairs(sum(cuts), past, window=window)
    at, total, flop = past, 0.0, 0.0
    shape = {"n_heads": 4, "n_kv_heads": 2, "qk_dim": 8, "v_dim": 8, "window": window}
    for q in cuts:
        total += causal_pairs(q, at, window=window)
        flop += attention_prefill(q, at, **shape).flop
        at += q
    assert total == whole
    assert flop == attention_prefill(sum(cuts), past, **shape).flop


@settings(max_examples=50, deadline=None)
@given(past=st.integers(0, 4000), steps=st.integers(1, 60), window=st.sampled_from([None, 64]))
def test_decoding_a_prompt_token_by_token_does_its_prefill_flop(past, steps, window):
    # a token that decodes sees itself and what came before: the pairs of its row
    total = sum(causal_pairs(1, past + i, window=window) for i in range(steps))
    assert total == causal_pairs(steps, past, window=window)


@settings(max_examples=30, deadline=None)
@given(m=models_made(), tp=st.sampled_from([2, 4]))
def test_tensor_parallel_conserves_the_flop_of_split_products(m, tp):
    if any(isinstance(g.mixer, Mla | Linear) or g.mixer.index_heads for g in m.layers):
        return  # down projections, indexers and shared keys are repeated, by design
    K = m.layers[0].mixer.n_kv_heads

    def total(graph):
        return sum(
            op.count * op.devices * op.shape.counts(64.0).flop
            for op in graph.ops
            if isinstance(op.shape, Matmul) and op.name not in ("router", "shared.gate")
        )

    one, split = lower(m, Pool(device="d")), lower(m, Pool(device="d", tp=tp))
    mixer, n_layers = m.layers[0].mixer, m.n_layers
    repeated = max(0, tp - K) * 2 * mixer.head_dim * m.hidden * 2 * 64.0 * n_layers
    assert total(split) == pytest.approx(total(one) + repeated, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(m=models_made(), replicas=st.integers(1, 3))
def test_neutral_settings_change_nothing(m, replicas):
    plain = lower(m, Pool(device="d"))
    stated = lower(m, Pool(device="d", tp=1, pp=1, dp=1, ep=1, cp=1, dtype="bf16", kv_dtype="bf16",
                           replicas=replicas))  # fmt: skip
    assert plain == stated


@settings(max_examples=25, deadline=None)
@given(m=models_made(), dp=st.sampled_from([2, 4]))
def test_attention_data_parallelism_conserves_flop(m, dp):
    on = device("h100-sxm")

    def table(**kw):
        return price(lower(m, Pool(device="h100-sxm", **kw)), on, max_tokens=64, max_seqs=16,
                     max_len=1024)  # fmt: skip

    one, many = table(), table(dp=dp)
    for part in ("tokens", "seqs", "decode", "prefill"):
        assert np.allclose(getattr(many.flop, part), getattr(one.flop, part)), part


@settings(max_examples=40, deadline=None)
@given(m=models_made(), context=st.integers(1, 4000), more=st.integers(1, 1000))
def test_memory_grows_with_context_and_shrinks_with_devices(m, context, more):
    on = device("h100-sxm")
    one = measure(m, Pool(device="h100-sxm"), on)
    two = measure(m, Pool(device="h100-sxm", tp=2), on)
    assert one.kv_bytes(context + more) >= one.kv_bytes(context)
    assert one.kv_bytes(context) <= context * one.kv_bytes_per_token * (1 + 1e-12)
    assert two.weights_bytes <= one.weights_bytes
    assert two.kv_bytes(context) <= one.kv_bytes(context)
    assert one.max_concurrency(context + more) <= one.max_concurrency(context)


@settings(max_examples=60, deadline=None)
@given(tp=st.integers(1, 9), pp=st.integers(1, 9), dp=st.integers(1, 5), ep=st.integers(1, 9))
def test_any_layout_is_lowered_or_refused_with_a_repair(tp, pp, dp, ep):
    m = model("mixtral-8x7b")
    pool = Pool(device="h100-sxm", tp=tp, pp=pp, dp=dp, ep=ep)
    problems = check_layout(m, pool)
    if problems:
        assert all(p.fix for p in problems)
        with pytest.raises(ShapeError):
            lower(m, pool)
        return
    graph = lower(m, pool)
    assert sum(graph.layers_per_stage) == m.n_layers
    assert graph.n_devices == tp * pp * dp


def test_a_state_in_two_chunks_costs_at_least_the_whole():
    shape = Scan("gdn", 4, 64, 64)
    whole = shape.prefill(1000, 0).kv_bytes
    assert shape.prefill(600, 0).kv_bytes + shape.prefill(400, 600).kv_bytes >= whole
