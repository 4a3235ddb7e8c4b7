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
    "architectures", "auto_map", "model_type", "_*", "transformers_version", "*_token_id",
    "*_token_index", "*_token_ids", "*_placeholder", "ignore_index", "*dropout*", "*initializer*",
    "init_std", "init_method*", "*_eps", "*_epsilon", "*aux_loss*", "*loss_coef*", "rope_*", "*_rope*",
    "rotary_*", "*rotary*", "use_mrope", "*rope_interleave*", "mrope*", "use_cache", "*_act",
    "hidden_activation", "activation_function", "activation_situ*", "act_fn", "return_dict*", "output_*", "torchscript", "use_bfloat16",
    "pruned_heads", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder",
    "cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beam*", "diversity_penalty", "temperature", "top_k", "top_p",
    "typical_p", "*_penalty", "*ngram_size", "bad_words_ids", "num_return_sequences",
    "forced_*", "remove_invalid_values", "exponential_decay*", "suppress_tokens",
    "begin_suppress*", "finetuning_task", "id2label", "label2id", "tokenizer_class", "prefix",
    "task_specific_params", "problem_type", "tf_legacy_loss", "pretraining_tp", "ep_size",
    "norm_topk_prob", "*routed_scaling*", "*router_scaling*", "routed_scaling_factor",
    "scoring_func", "topk_method", "topk_group", "n_group", "num_expert_group", "moe_renormalize",
    "use_grouped_topk", "seq_aux", "*softcap*", "*logit_scale*", "*_multiplier", "swiglu_*",
    "query_pre_attn_scalar", "attention_value_scale", "embedding_multiplier", "logit_scale",
    "chunk_size", "time_step*", "rescale_prenorm*", "residual_in_fp32", "num_logits_to_keep",
    "use_mamba_kernels", "norm_eps", "hc_eps", "hc_sinkhorn_iters", "num_hash_layers",
    "*_token", "vision_*_tokens*", "use_unified_vision_chunk", "language_model_only",
    "output_router_logits", "mamba_ssm_dtype", "router_jitter*", "head_type", "vocab_file",
    "pad_vocab*", "unk_*", "gradient_checkpointing", "initial_context_length", "*_beta",
    "gate_lower_bound", "moe_router_dtype", "*_dtype", "expand", "mlp_hidden_act", "unsloth*",
    "clip_qkv", "attn_pdrop", "embd_pdrop", "resid_pdrop", "summary_*", "reorder_and_upcast_attn",
    "scale_attn*", "alibi*", "apply_residual*", "slow_but_exact", "masked_softmax_fusion",
    "use_mtp", "attention_softmax_in_fp32", "bias_dropout_fusion", "skip_bias_add*",
    "hidden_dropout*", "layer_norm_elementwise_affine", "_remove_final_layer_norm",
    "use_parallel_residual", "*layernorm_*", "max_window_layers", "embedding_size",
    "index_share_for_mtp_iteration", "index_topk_pattern", "index_skip_topk_offset", "index_topk_freq",
    "mtp_transformer_layers", "mtp_use_dedicated_embeddings",
    "mtp_hybrid_override_pattern", "mtp_layers_block_type", "time_step_rank", "use_bidirectional_attention", "sliding_window_size",
    "moe_router_activation", "moe_router_activation_func", "gating_types", "qk_head_dim",
    "num_experts_per_tok", "*image_grid*", "image_seq_length", "process_image_mode",
    "vision_feature*", "multimodal_projector_bias", "projector_hidden_*", "video_*", "boa_*",
    "boi_*", "eoa_*", "eoi_*", "img_token_compression_config", "num_reward_heads", "aux_*",
    "moe_shared_expert_overlap", "compress_rope*",
    "norm_topk*", "use_routing_bias", "need_fp32_gate", "norm_expert_weight", "use_moe",
    "rms_norm*", "block_use_swiglu", "use_gemma_norm", "tie_word_embeddings", "use_sliding_window",
    "mm_tokens_per_image", "layernorm_full_attention*", "layernorm_linear*", "layernorm_mlp*",
    "yarn_only_types", "partial_rotary*", "sink*", "verbose", "learned_pos_emb", "emb_pdrop",
    "attn_impl", "prefix_lm", "attn_uses_sequence_id", "softmax_scale", "init_config",
    "embedding_fraction", "param_init*", "n_ctx", "rotary", "normalization*",
)  # fmt: skip


class Fields:
    """One config; remembers which names were asked for, and what was wrong."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where
        self.asked: set[str] = set()
        self.problems: list[Problem] = []
        self.assumed: list[str] = []

    def raw(self, *names: str) -> Any:
        """The first value present and not null, or None.  A meaning in NAMES stands for its names."""
        spelled = [n for name in names for n in NAMES.get(name, (name,))]
        self.asked.update(spelled)
        return next((self.data[n] for n in spelled if self.data.get(n) is not None), None)

    def has(self, *names: str) -> bool:
        return self.raw(*names) is not None

    def number(self, *names: str, default: int | None = None, low: int = 1) -> int:
        """A whole number >= low; a missing one without default is a problem (and reads as `low`)."""
        value = self.raw(*names)
        spelled = NAMES.get(names[0], names)[0]
        if value is None:
            if default is None:
                self._wrong(
                    spelled,
                    "is missing",
                    f"add it to the file, e.g. {_EXAMPLE.get(names[0], spelled)}",
                )
                return max(low, 1)
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            self._wrong(
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
            self._wrong(names[0], f"is {value!r}, not a list", "correct the file")
            return None
        if length is not None and len(value) < length:
            self._wrong(
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
            self._wrong(names[0], f"is {value!r}, not an object", "correct the file")
            return None
        nested = Fields(value, f"{self.where} {names[0]}")
        nested.problems, nested.assumed = self.problems, self.assumed
        return nested

    def _wrong(self, field: str, what: str, fix: str) -> None:
        self.problems.append(Problem(self.where, f"{field} {what}", fix))

    def wrong(self, field: str, what: str, fix: str) -> None:
        self._wrong(field, what, fix)

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
