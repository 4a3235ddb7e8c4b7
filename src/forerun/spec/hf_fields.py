"""A config.json's fields, read by any of their names, with every problem kept until the end."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from forerun.errors import Problem

#: one meaning, the names it goes by; the first that is present and not null counts
NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model", "dim"),
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_attention_groups"),
    "head_dim": ("head_dim", "attention_head_dim"),
    "inter": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "max_len": (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length",
        "max_sequence_length", "model_max_length",
    ),
    "n_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "topk": (
        "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts",
        "moe_top_k", "moe_topk",
    ),
    "moe_inter": ("moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"),
    "n_shared": ("n_shared_experts", "num_shared_experts"),
    "shared_inter": (
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
        "shared_intermediate_size", "share_expert_dim",
    ),
    "first_dense": ("first_k_dense_replace", "moe_layer_start_index"),
    "mtp": (
        "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "n_mtp_layers",
    ),
    "dtype": ("dtype", "torch_dtype"),
}  # fmt: skip

#: fields that cannot change what a step costs, or that repeat others; `*` stands for anything
HARMLESS = (
    "_*", "*_act", "act_fn", "activation_function", "activation_situ*", "add_cross_attention",
    "alibi*", "apply_residual*", "architectures", "attention_multiplier",
    "attention_softmax_in_fp32", "attention_value_scale", "attn_impl", "attn_pdrop",
    "attn_uses_sequence_id", "auto_map", "*aux_loss*", "bad_words_ids", "begin_suppress*",
    "bias_dropout_fusion", "boa_*", "boi_*", "chunk_size*", "chunk_size", "clip_qkv",
    "compress_rope*", "cross_attention_hidden_size", "diversity_penalty", "do_sample",
    "*dropout*", "early_stopping", "emb_pdrop", "embd_pdrop", "embedding_fraction",
    "embedding_multiplier", "eoa_*", "eoi_*", "ep_size", "*_eps", "*_epsilon",
    "exponential_decay*", "finetuning_task", "forced_*", "gradient_checkpointing", "hc_eps",
    "hc_sinkhorn_iters", "hidden_activation", "id2label", "ignore_index", "*image_grid*",
    "image_seq_length", "img_token_compression_config", "index_share_for_mtp_iteration",
    "index_skip_topk_offset", "index_topk_freq", "index_topk_pattern", "init_config",
    "init_method*", "init_std", "initial_context_length", "*initializer*", "is_decoder",
    "is_encoder_decoder", "label2id", "language_model_only", "layer_norm_*", "*layernorm_*",
    "learned_pos_emb", "*logit_scale*", "logits_multiplier", "*loss_coef*", "mamba_ssm_dtype",
    "masked_softmax_fusion", "max_length", "max_window_layers", "min_length", "mlp_hidden_act",
    "mm_tokens_per_image", "model_type", "moe_renormalize", "moe_router_activation*",
    "moe_router_dtype", "moe_shared_expert_overlap", "mrope*", "mtp_hybrid_override_pattern",
    "mtp_layers_block_type", "mtp_transformer_layers", "mtp_use_dedicated_embeddings",
    "multimodal_projector_bias", "n_group", "need_fp32_gate", "*ngram_size", "norm_eps",
    "norm_expert_weight", "norm_topk*", "normalization*", "num_beam*", "num_expert_group",
    "num_hash_layers", "num_logits_to_keep", "num_return_sequences", "num_reward_heads",
    "output_*", "pad_vocab*", "param_init*", "partial_rotary*", "*_penalty", "*_placeholder",
    "prefix", "prefix_lm", "pretraining_tp", "problem_type", "process_image_mode",
    "projector_hidden_*", "pruned_heads", "qk_head_dim", "query_pre_attn_scalar",
    "remove_invalid_values", "reorder_and_upcast_attn", "rescale_prenorm*", "resid_pdrop",
    "residual_in_fp32", "residual_multiplier", "return_dict*", "*_rope*", "rope_*", "rotary*",
    "*routed_scaling*", "router_aux*", "router_jitter*", "*router_scaling*", "scale_attn*",
    "scoring_func", "seq_aux", "skip_bias_add*", "sliding_window_size", "slow_but_exact",
    "*softcap*", "softmax_scale", "summary_*", "suppress_tokens", "swiglu_*",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "tie_word_embeddings", "time_step*", "*_token", "*_token_id", "*_token_id*", "*_token_index",
    "tokenizer_class", "top_k", "top_p", "topk_group", "topk_method", "torchscript",
    "transformers_version", "typical_p", "unk_*", "unsloth*", "use_bfloat16",
    "use_bidirectional_attention", "use_cache", "use_gemma_norm", "use_grouped_topk",
    "use_mamba_kernels", "use_moe", "use_mrope", "use_mtp", "use_parallel_residual",
    "use_routing_bias", "use_sliding_window", "use_unified_vision_chunk", "verbose", "video_*",
    "vision_*_tokens*", "vision_feature*", "yarn_only_types",
)  # fmt: skip


MOST_LAYERS = 10_000
MOST = 2**40


class Fields:
    """One config; remembers which names were asked for, and what was wrong."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where
        self.asked: set[str] = set()
        self.problems: list[Problem] = []
        self.assumed: list[str] = []

    def raw(self, *names: str) -> Any:
        """The first value present and not null, or None; a meaning stands for its names."""
        spelled = [n for name in names for n in NAMES.get(name, (name,))]
        self.asked.update(spelled)
        return next((self.data[n] for n in spelled if self.data.get(n) is not None), None)

    def has(self, *names: str) -> bool:
        return self.raw(*names) is not None

    def number(self, *names: str, default: int | None = None, low: int = 1) -> int:
        """A whole number >= low; a missing one without default is a problem."""
        value = self.raw(*names)
        spelled = NAMES.get(names[0], names)[0]
        if value is None:
            if default is None:
                self.wrong(
                    spelled,
                    "is missing",
                    f"add it to the file, e.g. {_EXAMPLE.get(names[0], spelled)}",
                )
                return max(low, 1)
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        # a reading makes one entry a layer: an absurd count must not fill the memory
        high = MOST_LAYERS if names[0] == "n_layers" else MOST
        if not isinstance(value, bool) and isinstance(value, int) and value > high:
            self.wrong(spelled, f"is {value}, more than {high}", "correct the file")
            return max(low, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            self.wrong(
                spelled, f"is {value!r}, not a whole number of at least {low}", "correct the file"
            )
            return max(low, 1)
        return value

    def optional(self, *names: str, low: int = 1) -> int | None:
        """Like `number`, None when absent."""
        return self.number(*names, low=low) if self.has(*names) else None

    def flag(self, *names: str, default: bool = False) -> bool:
        value = self.raw(*names)
        return default if value is None else bool(value)

    def listing(self, *names: str, length: int | None = None) -> list | None:
        """A list of at least `length` entries, cut to it (files append entries for MTP layers)."""
        value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            self.wrong(names[0], f"is {value!r}, not a list", "correct the file")
            return None
        if length is not None and len(value) < length:
            self.wrong(
                names[0], f"has {len(value)} entries for {length} layers", "one entry a layer"
            )
            return None
        return list(value[:length])

    def sub(self, *names: str) -> Fields | None:
        """A nested object, whose problems are this object's."""
        value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.wrong(names[0], f"is {value!r}, not an object", "correct the file")
            return None
        nested = Fields(value, f"{self.where} {names[0]}")
        nested.problems, nested.assumed = self.problems, self.assumed
        return nested

    def wrong(self, field: str, what: str, fix: str) -> None:
        """Keeps one problem; a field read for every layer is named once."""
        problem = Problem(self.where, f"{field} {what}", fix)
        if problem not in self.problems:
            self.problems.append(problem)

    def say(self, sentence: str) -> None:
        if sentence not in self.assumed:
            self.assumed.append(sentence)

    def unknown(self) -> list[str]:
        """Sentences on fields that nobody asked for and that might change the cost."""
        out = []
        for name, value in sorted(self.data.items()):
            empty = value is None or value is False or value == [] or value == {} or value == 0
            if name in self.asked or empty or any(fnmatch.fnmatchcase(name, p) for p in HARMLESS):
                continue
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
            out.append(f"{name} = {shown} is not known to this reader: read as if it were absent")
        return out


_EXAMPLE = {
    "hidden": '"hidden_size": 4096',
    "n_layers": '"num_hidden_layers": 32',
    "n_heads": '"num_attention_heads": 32',
    "inter": '"intermediate_size": 14336',
    "vocab": '"vocab_size": 128256',
}
