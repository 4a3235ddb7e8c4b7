"""Measured tables in the formats of others: every one is read into SI units."""

import gzip
from pathlib import Path

import numpy as np
import polars
import pytest

from forerun.errors import SpecError
from forerun.measure.tables import formats, read_tables, reader

# -- formats of others -----------------------------------------------------------------------------


def _csv(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def _aic(tmp_path, name, columns, place="h100_sxm/vllm-0.24.0"):
    """A file of AIConfigurator's tables, and what is read from it."""
    path = tmp_path / "ops" / place / f"{name}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    polars.DataFrame(columns).write_parquet(path)
    (table,) = read_tables(path)
    return table


def test_aiconfigurator_products_are_in_milliseconds(tmp_path):
    table = _aic(tmp_path, "gemm", dict(
        op_name=["gemm"], kernel_source=["vllm_DeepGemmKernel"], gemm_dtype=["fp8_block"],
        m=[16384], n=[8192], k=[8192], latency=[1.8],
    ))  # fmt: skip
    assert table.time_s == pytest.approx([1.8e-3])
    assert table.name == "aiconfigurator_ops/h100_sxm/vllm-0.24.0/gemm"
    x = table.rows
    assert [x.words(c)[0] for c in ("device", "runtime", "dtype", "impl")] == [
        "h100_sxm", "vllm 0.24.0", "fp8_block", "deepgemm",
    ]  # fmt: skip
    assert [x.get(c)[0] for c in "mnk"] == [16384, 8192, 8192]


def test_aiconfigurator_decode_counts_the_new_token_as_cached(tmp_path):
    shape = dict(batch_size=[8], num_heads=[32], num_key_value_heads=[8], head_dim=[128],
                 window_size=[0], attn_dtype=["bfloat16"], kv_cache_dtype=["fp8"], isl=[1],
                 kernel_source=["x"])  # fmt: skip
    decode = _aic(tmp_path, "generation_attention", dict(
        op_name=["generation_attention"], step=[4095], latency=[0.05], **shape))  # fmt: skip
    assert decode.rows.words("op")[0] == "attention_decode"
    assert decode.rows.get("past")[0] == 4096
    assert decode.rows.words("kv_dtype")[0] == "fp8"
    shape |= dict(isl=[2048], kv_cache_dtype=["bfloat16"])
    prefill = _aic(tmp_path, "context_attention", dict(
        op_name=["context_attention"], step=[0], latency=[1.2], **shape))  # fmt: skip
    assert prefill.rows.words("op")[0] == "attention_prefill"
    assert prefill.rows.get("past")[0] == 0
    assert prefill.rows.get("isl")[0] == 2048


def test_aiconfigurator_messages_are_counted_in_elements(tmp_path):
    columns = dict(
        op_name=["all_reduce", "all_gather", "alltoall"], nccl_dtype=["half", "int8", "half"],
        num_gpus=[8, 8, 8], message_size=[2**28, 2**29, 2**28], latency=[2.68, 1.40, 1.4],
    )  # fmt: skip
    nccl = _aic(tmp_path, "nccl", columns | {"kernel_source": ["NCCL"] * 3}, "h100_sxm/nccl-2.29.2")
    assert nccl.rows.get("bytes").tolist() == [2**29] * 3
    assert nccl.rows.words("op").tolist() == ["all_reduce", "all_gather", "all_to_all"]
    assert nccl.rows.words("runtime")[0] == "nccl 2.29.2"


def test_oneccl_gathers_what_each_device_contributes(tmp_path):
    columns = dict(
        op_name=["all_gather", "reduce_scatter"], nccl_dtype=["half"] * 2, num_gpus=[4, 4],
        message_size=[2**28] * 2, latency=[88.0, 22.0], kernel_source=["oneCCL"] * 2,
    )  # fmt: skip
    table = _aic(tmp_path, "oneccl", columns, "b60/oneccl-2021.17.2")
    assert table.rows.get("bytes").tolist() == [4 * 2**29, 2**29]


def test_a_custom_all_reduce_tells_graphs_from_eager_calls(tmp_path):
    table = _aic(tmp_path, "custom_allreduce", dict(
        op_name=["all_reduce"] * 2, allreduce_dtype=["half"] * 2, num_gpus=[4] * 2,
        message_size=[2**20] * 2, latency=[0.02, 0.04],
        kernel_source=["vLLM_custom_graph", "vLLM_custom_eager"],
    ))  # fmt: skip
    assert table.rows.get("graphs").tolist() == [1.0, 0.0]
    assert table.rows.get("bytes").tolist() == [2**21] * 2


def test_aiconfigurator_experts_keep_their_parallelism_and_skew(tmp_path):
    table = _aic(tmp_path, "moe", dict(
        op_name=["moe"] * 2, kernel_source=["moe_nongated_x", "y"], moe_dtype=["fp8"] * 2,
        num_tokens=[1024] * 2, hidden_size=[4096] * 2, inter_size=[1536] * 2, topk=[8] * 2,
        num_experts=[128] * 2, moe_tp_size=[2] * 2, moe_ep_size=[4] * 2,
        distribution=["power_law_1.2", "balanced"], latency=[1.0, 1.0],
    ))  # fmt: skip
    x = table.rows
    assert x.get("gated").tolist() == [0.0, 1.0]
    assert [x.get(c)[0] for c in ("n_tokens", "hidden", "inter", "topk", "n_experts", "moe_tp",
                                  "moe_ep")] == [1024, 4096, 1536, 8, 128, 2, 4]  # fmt: skip
    assert x.words("distribution").tolist() == ["power_law_1.2", "balanced"]


def test_a_dtype_without_a_meaning_and_a_column_that_is_missing_are_said(tmp_path):
    with pytest.raises(SpecError, match="int3 not known"):
        _aic(tmp_path, "gemm", dict(
            op_name=["gemm"], kernel_source=["x"], gemm_dtype=["int3"], m=[1], n=[1], k=[1],
            latency=[1.0],
        ))  # fmt: skip
    with pytest.raises(SpecError, match="lacks the column latency"):
        _aic(tmp_path, "gemm", dict(op_name=["gemm"], m=[1]))


def test_a_published_row_without_a_size_is_left_out_and_counted(tmp_path):
    table = _aic(tmp_path, "gemm", dict(
        op_name=["gemm"] * 3, kernel_source=["x"] * 3, gemm_dtype=["bfloat16"] * 3,
        m=[4096, 0, None], n=[4096] * 3, k=[4096] * 3, latency=[0.2, 0.2, 0.2],
    ))  # fmt: skip
    assert table.rows.n == 1
    assert dict(table.n_dropped) == {"a size that is missing or cannot be": 2}


def test_published_rows_of_a_device_without_a_data_sheet_are_left_out_and_counted(tmp_path):
    folder = tmp_path / "neusight"
    folder.mkdir()
    sizes = dict(OPName=["bmm"] * 2, Latency=[0.5] * 2, B=[16] * 2, M=[512] * 2, N=[64] * 2,
                 K=[256] * 2)  # fmt: skip
    for devices in (["Tesla T4", "Nobody 9000"], ["Nobody 9000", "Nobody 9001"]):
        polars.DataFrame(sizes | {"Device": devices}).write_parquet(folder / "bmm.parquet")
        (table,) = read_tables(folder)
        n = devices.count("Tesla T4")
        assert table.rows.n == n
        assert table.n_dropped["a device or format without a data sheet"] == 2 - n


def test_a_file_is_read_from_within_its_folder(tmp_path, monkeypatch):
    _aic(tmp_path, "gemm", dict(
        op_name=["gemm"], kernel_source=["x"], gemm_dtype=["bfloat16"], m=[4096], n=[4096],
        k=[4096], latency=[0.2],
    ))  # fmt: skip
    monkeypatch.chdir(tmp_path / "ops" / "h100_sxm" / "vllm-0.24.0")
    for path in ("gemm_perf.parquet", "."):
        (table,) = read_tables(path)
        assert table.rows.words("device")[0] == "h100_sxm"
        assert table.rows.words("runtime")[0] == "vllm 0.24.0"


def test_neusight_names_the_inner_size_of_a_product_n(tmp_path):
    folder = tmp_path / "neusight"
    folder.mkdir()
    polars.DataFrame(dict(
        OPName=["bmm"], Latency=[0.5], Device=["NVIDIA V100-PCIE-32GB"], B=[16], M=[512], N=[64],
        K=[256],
    )).write_parquet(folder / "bmm.parquet")  # fmt: skip
    polars.DataFrame(dict(
        OPName=["add"], Latency=[0.5], Device=["NVIDIA V100-PCIE-32GB"], B=[4096], H=[1024],
    )).write_parquet(folder / "add.parquet")  # fmt: skip
    bmm, add = read_tables(folder)
    assert [bmm.rows.get(c)[0] for c in ("batch", "m", "n", "k")] == [16, 512, 256, 64]
    assert bmm.rows.words("dtype")[0] == "fp32"
    assert bmm.time_s == pytest.approx([0.5e-3])
    # two operands of 4 bytes are read, one is written
    assert [add.rows.get(c)[0] for c in ("n_tokens", "width", "read_bytes", "write_bytes")] == [
        4096, 1024, 8192, 4096,
    ]  # fmt: skip


def test_infersim_is_in_microseconds_and_names_heads_by_its_files(tmp_path):
    folder = tmp_path / "infersim"
    _csv(folder / "gemm/h20/data.csv.gz", "m,k,n,latency_us,mfu\n4096,7168,2048,450,0.9\n")
    _csv(folder / "mha/decode/h20/32-8-128.csv.gz",
         "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu\nbf16,fp8,16,4096,60,0.1\n")  # fmt: skip
    _csv(folder / "grouped_gemm/decode/h20/data.csv.gz",
         "num_experts,num_gpus,num_local_experts,topk,hidden_size,intermediate_size,"
         "batch_size_per_gpu,tokens_per_expert,up_proj_us,up_mfu,down_proj_us,down_mfu\n"
         "256,8,32,8,7168,2048,64,16,400,0.1,200,0.1\n")  # fmt: skip
    gemm, mha, moe = read_tables(folder)
    assert gemm.time_s == pytest.approx([450e-6])
    assert [gemm.rows.get(c)[0] for c in "mnk"] == [4096, 2048, 7168]
    assert gemm.rows.words("dtype")[0] == "fp8_block"
    heads = ("n_heads", "n_kv_heads", "head_dim", "batch", "past")
    assert [mha.rows.get(c)[0] for c in heads] == [32, 8, 128, 16, 4096]
    assert mha.rows.words("kv_dtype")[0] == "fp8"
    # the layer's tokens are those of all devices; both products count
    assert moe.rows.get("n_tokens")[0] == 64 * 8
    assert moe.rows.get("moe_ep")[0] == 8
    assert moe.time_s == pytest.approx([600e-6])


def test_infersim_files_without_a_header_keep_their_first_row(tmp_path):
    folder = tmp_path / "infersim"
    _csv(folder / "gemm/h20/data.csv.gz", "m,k,n,latency_us,mfu\n4096,7168,2048,450,0.9\n")
    _csv(folder / "mha/decode/h20/32-8-128.csv.gz",
         "bf16,bf16,16,4096,60,0.1\nbf16,bf16,32,4096,110,0.1\n")  # fmt: skip
    _, mha = read_tables(folder)
    assert mha.rows.get("batch").tolist() == [16, 32]
    assert mha.time_s == pytest.approx([60e-6, 110e-6])


def test_vidur_divides_widths_by_tensor_parallelism(tmp_path):
    folder = tmp_path / "vidur"
    _csv(folder / "compute/a100/meta-llama/Llama/mlp.csv.gz",
         "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,"
         "num_tensor_parallel_workers,time_stats.attn_pre_proj.median,time_stats.mlp_up_proj.median,"
         "time_stats.add.median\n"
         "32,8,4096,14336,True,1024,2,0.1,0.6,0.02\n")  # fmt: skip
    _csv(folder / "network/a100_pairwise_nvlink/all_reduce.csv.gz",
         "num_workers,size,devices_per_node,collective,time_stats.all_reduce.median\n"
         "8,1048576,4,all_reduce,0.5\n")  # fmt: skip
    linear, network = read_tables(folder)
    products = linear.rows.take(linear.rows.words("op") == "gemm")
    # (32 + 2 * 8) heads of 128 over 2; two feed-forward widths over 2
    assert products.get("n").tolist() == [48 * 128 / 2, 2 * 14336 / 2]
    assert products.get("k").tolist() == [4096, 4096]
    assert linear.time_s == pytest.approx([1e-4, 6e-4, 2e-5])
    assert linear.rows.words("device")[0] == "a100-sxm-80gb"
    assert network.rows.get("bytes")[0] == 2**20
    assert network.rows.get("n_nodes")[0] == 2
    assert network.time_s == pytest.approx([5e-4])
    # bridges join PCIe cards; an operator of PyTorch starts from the host
    assert network.rows.words("device")[0] == "a100-pcie-80gb"
    assert network.rows.words("impl")[0] == "nccl"
    assert network.rows.get("graphs")[0] == 0


@pytest.mark.parametrize(
    ("cluster", "device"),
    [("a100_dgx", "a100-sxm-80gb"), ("h100_dgx", "h100-sxm"), ("a40_pairwise_nvlink", "a40"),
     ("h100_pairwise_nvlink", "h100-nvl")],
)  # fmt: skip
def test_a_cluster_of_vidur_is_of_cards_that_have_its_links(tmp_path, cluster, device):
    _csv(tmp_path / "network" / cluster / "all_reduce.csv.gz",
         "num_workers,size,devices_per_node,collective,time_stats.all_reduce.median\n"
         "2,67108864,2,all_reduce,5\n")  # fmt: skip
    (network,) = read_tables(tmp_path)
    assert network.rows.words("device")[0] == device


LLAMA = "meta-llama/Llama-3.1-8B"


def test_vllm_layers_take_widths_from_the_catalog_and_tell_prefill_from_decode(tmp_path):
    folder = tmp_path / "profiles"
    place = folder / "RTXPRO6000" / LLAMA / "bf16" / "tp2"
    _csv(place / "dense.csv.gz", "layer,tokens,time_us\nqkv_proj,512,90\nlayernorm,512,6\n")
    _csv(place / "per_sequence.csv.gz", "layer,sequences,time_us\nlm_head,8,400\n")
    _csv(place / "attention.csv.gz",
         "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
         "512,1024,0,0,80\n512,0,16,2047,90\n0,0,16,2047,60\n")  # fmt: skip
    dense, attention = read_tables(folder)
    products = dense.rows.take(dense.rows.words("op") == "gemm")
    # (32 + 2 * 8) heads of 128 over 2, and half the vocabulary
    assert products.get("n").tolist() == [3072, 128256 / 2]
    assert products.get("m").tolist() == [512, 8]
    assert dense.time_s == pytest.approx([6e-6, 90e-6, 400e-6])
    x = attention.rows
    assert x.words("op").tolist() == ["attention_prefill"] * 2 + ["attention_decode"]
    assert x.get("past").tolist() == [1024, 0, 2048]
    assert x.get("n_decode")[1] == 16
    assert x.get("past_decode")[1] == 2048
    assert x.get("n_heads").tolist() == [16] * 3
    assert attention.time_s == pytest.approx([80e-6, 90e-6, 60e-6])


def test_layer_profiles_v0_are_in_nanoseconds_and_attention_in_milliseconds(tmp_path):
    folder = tmp_path / "profiles"
    for model in (LLAMA, "nobody/no-such-model"):
        place = folder / "A6000" / model / "tp1"
        _csv(place / "layers.csv.gz",
             "layer_name,input,kv_cache,tp_size,latency(ns)\no_proj,1024,0,1,400000\n")  # fmt: skip
    _csv(folder / "A6000" / LLAMA / "tp1" / "attention.csv.gz",
         "time_stats.attn_prefill.median,n_embd,n_q_head,n_kv_head,batch_size,prefill_chunk_size,"
         "kv_cache_size,num_tensor_parallel_workers\n0.5,4096,32,8,1,1024,2048,1\n"
         ",4096,32,8,64,0,2048,1\n")  # fmt: skip
    layers, attention = read_tables(folder)  # models that the catalog lacks are passed over
    assert layers.time_s == pytest.approx([400e-6])
    assert [layers.rows.get(c)[0] for c in "mnk"] == [1024, 4096, 4096]
    assert attention.time_s == pytest.approx([0.5e-3])
    assert [attention.rows.get(c)[0] for c in ("isl", "past", "n_heads", "head_dim")] == [
        1024, 2048, 32, 128,
    ]  # fmt: skip


def test_llmcompass_rates_are_elements_and_become_seconds(tmp_path):
    folder = tmp_path / "kernels"
    _csv(folder / "matmul_A100.csv.gz", "m,k,n,tflops,latency_ms\n64,12288,4096,33,0.19\n")
    _csv(folder / "softmax_A100.csv.gz", "rows,cols,gelem_per_s\n4096,512,100\n")
    _csv(folder / "gelu_A100.csv.gz", "elements,gelem_per_s\n1048576,50\n")
    _csv(folder / "gelu_NOBODY9.csv.gz", "elements,gelem_per_s\n1048576,50\n")
    _csv(folder / "transformer_A100.csv.gz", "latency_s\n0.01\n")
    gelu, matmul, softmax = read_tables(folder)
    assert [matmul.rows.get(c)[0] for c in "mnk"] == [64, 4096, 12288]
    assert matmul.time_s == pytest.approx([0.19e-3])
    assert matmul.rows.words("device")[0] == "a100-sxm-80gb"
    assert softmax.time_s == pytest.approx([4096 * 512 / 100e9])
    assert [softmax.rows.get(c)[0] for c in ("n_tokens", "width", "read_bytes")] == [
        4096,
        512,
        1024,
    ]
    assert gelu.time_s == pytest.approx([1048576 / 50e9])
    assert gelu.rows.get("n_tokens")[0] * gelu.rows.get("width")[0] == 1048576


SHEET = """\
sheet,row,c0,c1,c2,c3,c4,c5,c6,c7,c8,c9
{0},1,Precision,{1},,,,,,,,
{0},4,Dense Matrix Multiplication,,M,N,K,A Transpose,B Transpose,,Time (msec),TERAFLOPS
{0},5,,Speech,1760,7000,1760,N,T,,3.4,12.8
{0},6,,Speech,1760,128,1760,N,N,,0.1,8
{0},9,Convolution,,,,,,,,,
{0},10,,,700,161,1,4,32,5,0.2,1
"""


def test_deepbench_products_end_where_the_convolutions_begin(tmp_path):
    fp32 = SHEET.format("FP32", "Float")
    fp16 = SHEET.format("FP16", '"16 bit inputs, 16 bit multiplication, 32 bit addition"')
    mixed = SHEET.format("Mixed", '"16 bit inputs, 32 bit multiplication"')
    body = [part.split("\n", 1)[1] for part in (fp16, mixed)]
    specs = "Specs,1,CUDA Version,10.1,,,,,,,,\n"
    _csv(tmp_path / "deep/train_NV_V100.csv.gz", fp32 + "".join(body) + specs)
    tables = read_tables(tmp_path / "deep")
    assert [t.rows.words("dtype")[0] for t in tables] == ["fp32", "fp16"]
    x = tables[0].rows
    assert [x.get(c).tolist() for c in "mnk"] == [[1760, 1760], [7000, 128], [1760, 1760]]
    assert x.words("impl").tolist() == ["nt", "nn"]
    assert x.words("runtime")[0] == "cuda 10.1"
    assert tables[0].time_s == pytest.approx([3.4e-3, 0.1e-3])


def test_every_format_says_where_its_numbers_come_from():
    for name in formats():
        if name != "plain":
            assert reader(name).ORIGIN
            assert reader(name).LICENCE


def test_every_format_has_a_section_in_the_reference():
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "measured-tables.md"
    assert set(formats()) <= {line.strip("# ") for line in page.read_text().splitlines()}


SHARED = {
    "aiconfigurator_ops": (34, 745_626), "infersim_kernels": (22, 1_324),
    "neusight_ops": (13, 161_313), "vidur_profiles": (12, 78_487),
    "vllm_layer_profiles": (4, 41_624), "vllm_layer_profiles_v0": (6, 45_488),
    "llmcompass_kernels": (4, 82), "deepbench": (3, 480),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_shared_measurements_are_read_whole(shared_data, name):
    tables = read_tables(shared_data / name)
    assert (len(tables), sum(table.rows.n for table in tables)) == SHARED[name]
    assert all(np.isfinite(t.time_s).all() and (t.time_s > 0).all() for t in tables)
    assert len({t.name for t in tables}) == len(tables)
