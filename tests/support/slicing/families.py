"""A small configuration of every text architecture of mlx-lm.

A new family needs one row. A row has the keys of a model's config.json; other keys are taken from
`COMMON`, and a family ignores unknown keys. `family:variant` is a second configuration of a family.
"""

import importlib
import pkgutil
import sys
import types
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
from mlx.utils import tree_flatten, tree_unflatten

from support.slicing.metal_kernels import use_plain_kernels

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "attention_bias": True,
    "mlp_bias": True,
    "use_bias": True,
    "tie_word_embeddings": False,
    "sliding_window": 6,
    # mixtures of experts
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "num_shared_experts": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [],
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    # latent attention
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    # linear attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    # The Metal kernel takes heads of 32 and more.
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 3,
}

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
MIXED = [SLIDING, FULL, SLIDING, FULL]
QWEN_VL_TEXT = {**COMMON, "model_type": "qwen3"}
DEEPSEEK_TEXT = {**COMMON, "num_key_value_heads": 4, "attention_bias": False}
QWEN3_5_TEXT: dict[str, Any] = {**COMMON, "num_experts": 0, "full_attention_interval": 2}
DEEPSEEK_V41: dict[str, Any] = {
    "num_hidden_layers": 6,
    "head_dim": 16,
    "o_groups": 2,
    "o_lora_rank": 8,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 2,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 3,
}
GEMMA4_TEXT: dict[str, Any] = {
    **COMMON,
    "num_hidden_layers": 7,
    "num_key_value_heads": 1,
    "global_head_dim": 16,
    "num_kv_shared_layers": 3,
    "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING, SLIDING, FULL],
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
    "tie_word_embeddings": True,
}
KDA = {
    "kda_layers": [1, 3, 4],
    "full_attn_layers": [2],
    "num_heads": 4,
    "head_dim": 32,
    "short_conv_kernel_size": 3,
    "gate_lower_bound": -5.0,
}
LONGCAT: dict[str, Any] = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 48,
    "moe_topk": 2,
    "expert_ffn_hidden_size": 16,
    "zero_expert_num": 2,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
YARN_BETA = {
    "rope_theta": 10000.0,
    "rope_type": "default",
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 4,
}
ROPE_BY_TYPE = {
    FULL: {"rope_type": "default", "rope_theta": 10000.0},
    SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
}

FAMILIES: dict[str, dict[str, Any]] = {
    "Klear": {},
    "afm7": {
        "hidden_dim": 32,
        "num_layers": 5,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "afmoe": {"layer_types": MIXED, "num_dense_layers": 1},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"sliding_window_layers": [0, 2], "conv_window": 2},
    "bailing_hybrid": {
        "num_key_value_heads": 4,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "use_qkv_bias": True,
    },
    "bailing_moe": {"num_attention_heads": 4, "use_qkv_bias": True, "use_qk_norm": True},
    "bailing_moe_linear": {
        "num_key_value_heads": 4,
        "layer_group_size": 2,
        "group_norm_size": 2,
        "use_qk_norm": True,
    },
    "bailing_moe_v3": {"layer_group_size": 2, "short_conv_kernel_size": 3},
    "bitnet": {},
    "cohere": {"use_qk_norm": True, "layer_norm_bias": True},
    "cohere2": {"sliding_window_pattern": 2, "layer_norm_bias": True},
    "dbrx": {
        "d_model": 32,
        "n_layers": 4,
        "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek": {},
    "deepseek_v2": {
        "topk_method": "greedy",
        "rope_scaling": {"factor": 2.0, "type": "yarn", "original_max_position_embeddings": 64},
    },
    "deepseek_v3": {},
    "deepseek_v32": {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4},
    "deepseek_v41": {
        **DEEPSEEK_V41,
        "compress_ratios": [0, 1, 1, 0, 2, 2],
        "kv_source_layer_ids": [1, 4],
        "index_source_layer_ids": [1, 4],
    },
    "deepseek_v41:candidates": {
        **DEEPSEEK_V41,
        "compress_ratios": [0, 4, 4, 4, 4, 4],
        "kv_source_layer_ids": [1, 3, 5],
        "index_source_layer_ids": [1, 3, 5],
        "candidate_source_layer_id": 1,
        "candidate_topk_blocks": 1,
        "candidate_block_size": 2,
    },
    "dots1": {},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone": {},
    "exaone4": {"sliding_window_pattern": "LGLG", "rope_scaling": None},
    "exaone_moe": {"layer_types": MIXED, "is_moe_layer": [False, True, True, True]},
    "falcon_h1": {
        "mamba_d_head": 8,
        "mamba_d_ssm": 32,
        "mamba_d_state": 8,
        "mamba_d_conv": 3,
        "mamba_n_heads": 4,
    },
    "gear": {"layer_types": [SLIDING, "conv_mixer", FULL, "conv_mixer"]},
    "gemma": {},
    "gemma2": {},
    "gemma3": {"text_config": {**COMMON, "model_type": "gemma3_text", "sliding_window_pattern": 2}},
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma3n": {
        "text_config": {
            **COMMON,
            "model_type": "gemma3n_text",
            "num_hidden_layers": 7,
            "num_kv_shared_layers": 3,
            "vocab_size_per_layer_input": 60,
            "rope_local_base_freq": 1000.0,
            "final_logit_softcapping": 30.0,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING, FULL],
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
            "intermediate_size": 48,
            "hidden_size_per_layer_input": 8,
            "altup_num_inputs": 3,
            "altup_coef_clip": 120.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 4,
        }
    },
    "gemma4": {"text_config": GEMMA4_TEXT},
    "gemma4_text": GEMMA4_TEXT,
    "gemma4_text:unshared": {**GEMMA4_TEXT, "num_kv_shared_layers": 0},
    "glm": {},
    "glm4": {"partial_rotary_factor": 0.5},
    "glm4_moe": {"partial_rotary_factor": 0.5, "use_qk_norm": True, "rope_scaling": None},
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "glm_moe_dsa": {
        "index_head_dim": 16,
        "index_n_heads": 2,
        "index_topk": 4,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "gpt2": {"n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 4, "n_positions": 64},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 4, "n_inner": 48, "n_head": 4, "n_positions": 64},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.5},
    "gpt_oss": {"layer_types": MIXED},
    "gptj": {"n_embd": 32, "n_positions": 64, "n_head": 4, "rotary_dim": 4, "n_layer": 4},
    "granite": {
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
    },
    "granitemoe": {
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
    },
    "granitemoehybrid": {
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.7,
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "shared_intermediate_size": 16,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_proj_bias": True,
        "mamba_d_state": 8,
        "mamba_d_conv": 3,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "helium": {},
    "hunyuan": {
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "num_hidden_layers": 6,
        "rope_scaling": {"factor": 1.0, "type": "dynamic", "alpha": 1000.0},
    },
    "hunyuan_v1_dense": {"rope_scaling": {"factor": 1.0, "type": "dynamic", "alpha": 1000.0}},
    "internlm2": {},
    "internlm3": {"qkv_bias": True},
    "iquestloopcoder": {"loop_window_size": 6},
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 3,
        "mamba_d_state": 8,
        "mamba_expand": 2,
    },
    "kimi_k25": {"text_config": DEEPSEEK_TEXT},
    "kimi_k3": {
        "text_config": {
            **COMMON,
            "num_hidden_layers": 5,
            "num_key_value_heads": 4,
            "linear_attn_config": KDA,
            "attn_res_block_size": 2,
            "num_experts_per_token": 2,
            "routed_expert_hidden_size": 16,
            "latent_moe_use_norm": True,
            "mla_use_output_gate": True,
        }
    },
    "kimi_linear": {
        "linear_attn_config": KDA,
        "model_max_length": 128,
        "num_key_value_heads": 4,
        "num_experts_per_token": 2,
    },
    "kimi_vl": {"text_config": DEEPSEEK_TEXT},
    "laguna": {
        "layer_types": MIXED,
        "num_attention_heads_per_layer": [4, 2, 4, 2],
        "rope_parameters": ROPE_BY_TYPE,
    },
    "lfm2": {
        "conv_bias": True,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 48,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "layer_types": ["conv", FULL, "conv", FULL],
    },
    "lfm2-vl": {
        "text_config": {
            **COMMON,
            "model_type": "lfm2",
            "conv_bias": True,
            "conv_L_cache": 3,
            "block_dim": 32,
            "block_ff_dim": 48,
            "block_multiple_of": 8,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
            "layer_types": ["conv", FULL, "conv", FULL],
        }
    },
    "lfm2_moe": {
        "conv_bias": True,
        "conv_L_cache": 3,
        "use_expert_bias": True,
        "num_dense_layers": 1,
        "layer_types": ["conv", FULL, "conv", FULL],
    },
    "lille-130m": {"block_size": 64, "n_embd": 96, "n_head": 4, "n_kv_heads": 2, "n_layer": 4},
    "llama": {},
    "llama:sliding": {"layer_types": MIXED, "tie_word_embeddings": True},
    "llama4": {
        "text_config": {
            **COMMON,
            "num_hidden_layers": 5,
            "num_experts_per_tok": 1,
            "attention_chunk_size": 6,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 48,
            "model_type": "llama4_text",
            "rope_scaling": None,
            "use_qk_norm": True,
            "floor_scale": 4,
        }
    },
    "llama4_text": {
        "intermediate_size_mlp": 48,
        "no_rope_layers": [1, 1, 1, 0],
        "use_qk_norm": True,
    },
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": {
        **LONGCAT,
        "ngram_vocab_size_ratio": 2,
        "emb_neighbor_num": 2,
        "emb_split_num": 2,
    },
    "mamba": {
        "state_size": 8,
        "conv_kernel": 3,
        "use_conv_bias": True,
        "time_step_rank": 4,
        "use_bcdt_rms": True,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 8,
        "intermediate_size": 64,
        "state_size": 8,
        "conv_kernel": 3,
        "n_groups": 2,
        "use_conv_bias": True,
        "time_step_limit": (0.001, 100.0),
        "time_step_rank": "auto",
    },
    "mellum": {"layer_types": MIXED, "rope_parameters": ROPE_BY_TYPE},
    "mimo": {},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": True,
        "sliding_window_size": 6,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 1000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "swa_v_head_dim": 8,
        "partial_rotary_factor": 0.5,
        "attention_value_scale": 0.7,
    },
    "minicpm": {"dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 2.0},
    "minicpm3": {
        "dim_model_base": 16,
        "scale_depth": 1.4,
        "scale_emb": 2.0,
        "rope_scaling": {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4},
    },
    "minimax": {"shared_intermediate_size": 16, "rotary_dim": 4},
    "minimax_m3_vl": {
        "text_config": {
            **COMMON,
            "dense_intermediate_size": 48,
            "shared_intermediate_size": 16,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "layer_types": [FULL, "minimax_m3_sparse", FULL, "minimax_m3_sparse"],
            "index_n_heads": 2,
            "index_head_dim": 8,
            "index_block_size": 2,
            "index_topk_blocks": 2,
        }
    },
    "ministral3": {"layer_types": MIXED, "rope_parameters": YARN_BETA},
    "mistral3": {"text_config": {**COMMON, "model_type": "mistral"}},
    "mistral3:ministral3": {
        "text_config": {**COMMON, "model_type": "ministral3", "rope_parameters": YARN_BETA}
    },
    "mistral4": {"rope_parameters": YARN_BETA},
    "mixtral": {},
    "muse_glimmer": {"layer_types": MIXED},
    "muse_spark": {
        "text_config": {
            **COMMON,
            "post_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": 10000.0},
            "layer_rope_theta": [10000.0, 0.0, 10000.0, 0.0],
            "layer_types": MIXED,
            "final_logit_softcapping": 20.0,
            "output_multiplier": 0.5,
            "moe_hidden_size": 16,
            "num_shared_experts": 0,
        }
    },
    "nanbeige": {"num_loops": 1},
    "nanbeige:loops": {"num_loops": 2},
    "nanochat": {"num_key_value_heads": 4},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
            {"attention": {"n_heads_in_group": 2}, "ffn": {"replace_with_linear": True}},
        ]
    },
    "nemotron-nas:linear": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.5}},
        ]
    },
    "nemotron_h": {
        "num_hidden_layers": 6,
        "hybrid_override_pattern": ["M", "-", "*", "E", "M", "*"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "mamba_proj_bias": True,
        "ssm_state_size": 8,
        "conv_kernel": 3,
        "n_groups": 2,
        "use_conv_bias": True,
    },
    "olmo": {
        "d_model": 32,
        "n_layers": 4,
        "mlp_hidden_size": 48,
        "n_heads": 4,
        "embedding_size": 64,
    },
    "olmo:tied": {
        "d_model": 32,
        "n_layers": 4,
        "mlp_hidden_size": 48,
        "n_heads": 4,
        "embedding_size": 64,
        "weight_tying": True,
    },
    "olmo2": {},
    "olmo3": {"layer_types": MIXED},
    "olmo_hybrid": {
        "layer_types": [LINEAR, FULL, LINEAR, FULL],
        "linear_allow_neg_eigval": True,
    },
    "olmoe": {},
    "openelm": {
        "num_transformer_layers": 4,
        "model_dim": 32,
        "ffn_dim_divisor": 8,
        "num_query_heads": [2, 4, 2, 4],
        "num_kv_heads": [1, 2, 1, 2],
        "ffn_multipliers": [1.0, 1.5, 2.0, 1.0],
    },
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {},
    "phi3small": {
        "vocab_size": 100352,
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 48,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 2,
        "blocksparse_vert_stride": 2,
    },
    "phimoe": {
        "rope_scaling": {
            "long_factor": [1.0] * 4,
            "short_factor": [1.0] * 4,
            "long_mscale": 1.1,
            "short_mscale": 1.1,
            "type": "longrope",
        },
    },
    "phixtral": {
        "num_vocab": 64,
        "model_dim": 32,
        "num_heads": 4,
        "num_layers": 4,
        "rotary_dim": 4,
    },
    "pixtral": {"text_config": {**COMMON, "model_type": "llama"}},
    "plamo": {"n_shared_head": 2},
    "plamo2": {
        "hidden_size_per_head": 8,
        "mamba_d_state": 8,
        "mamba_d_conv": 3,
        "mamba_num_heads": 4,
        "full_attention_idx": [1, 3],
    },
    "plamo3": {"window_size": 6, "sliding_window_pattern": 2},
    "prism_hadamard_qwen35": {
        "text_config": {**QWEN3_5_TEXT, "hidden_size": 128, "intermediate_size": 512},
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {"path": "model.embed_tokens", "embedding": True, "dtype": "float16", "block": 0},
            {
                "path": "model.layers.1.mlp.down_proj",
                "embedding": False,
                "dtype": "float16",
                "block": 512,
            },
        ],
    },
    "qwen": {"kv_channels": 8, "no_bias": False, "num_key_value_heads": 4},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen2_vl": {"text_config": {**COMMON, "model_type": "qwen2"}},
    "qwen3": {},
    "qwen3_5": {"text_config": QWEN3_5_TEXT},
    "qwen3_5_moe": {"text_config": {**QWEN3_5_TEXT, "num_experts": 4}},
    "qwen3_moe": {},
    "qwen3_next": {"partial_rotary_factor": 0.5, "full_attention_interval": 2},
    "qwen3_vl": {"text_config": QWEN_VL_TEXT},
    "qwen3_vl_moe": {"text_config": {**COMMON, "model_type": "qwen3_moe"}},
    "recurrent_gemma": {
        "conv1d_width": 3,
        "logits_soft_cap": 30.0,
        "attention_window_size": 6,
        "num_key_value_heads": 1,
        "block_types": ["recurrent", "attention", "recurrent", "attention"],
    },
    "rwkv7": {
        "head_dim": 8,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 4,
        "gate_low_rank_dim": 4,
        "decay_low_rank_dim": 4,
    },
    "seed_oss": {"attention_out_bias": True},
    "smollm3": {"no_rope_layer_interval": 2},
    "solar_open": {"partial_rotary_factor": 0.5, "use_qk_norm": True},
    "spark2_5": {"layer_types": MIXED, "rope_parameters": ROPE_BY_TYPE},
    "stablelm": {"use_qkv_bias": True, "partial_rotary_factor": 0.5, "qk_layernorm": True},
    "starcoder2": {"norm_epsilon": 1e-5},
    "step3p5": {
        "num_attention_groups": 2,
        "layer_types": MIXED,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 16,
        "moe_layers_enum": "1,2,3",
        "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 2},
    },
    "talkie": {},
    "telechat3": {},
    "youtu_llm": {"num_key_value_heads": 4},
}


def installed_families() -> set[str]:
    """Returns the architectures of the installed mlx-lm: modules that can load a checkpoint."""
    names = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    return {name for name in names if hasattr(_module(name), "ModelArgs")}


def build(row: str, **own: Any) -> nn.Module:
    """Returns the model of a row of `FAMILIES`, with the same random weights at every call.

    Args:
        own: overrides keys of the row.
    """
    family = row.partition(":")[0]
    module = _module(family)
    use_plain_kernels()
    config = {**COMMON, "model_type": family, **FAMILIES[row], **own}
    mx.random.seed(7)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    model.eval()
    return model


def randomise(model: nn.Module) -> None:
    """Gives every parameter random values, also biases and norms, which are constant otherwise."""
    key = mx.random.key(11)
    drawn: list[tuple[str, mx.array]] = []
    for name, array in cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters())):
        key, subkey = mx.random.split(key)
        if not mx.issubdtype(array.dtype, mx.floating):  # packed weights
            bits = mx.random.randint(0, 256, (*array.shape, array.itemsize), mx.uint8, key=subkey)
            drawn.append((name, bits.view(array.dtype).squeeze(-1)))
            continue
        noise = mx.random.normal(array.shape, key=subkey).astype(array.dtype)
        if array.ndim < 2:  # norms, scales, gates and biases
            drawn.append((name, 0.5 + 0.2 * noise))
        else:
            drawn.append((name, noise / array.shape[-1] ** 0.5))
    model.update(tree_unflatten(drawn))
    mx.eval(model.parameters())


def _module(name: str) -> Any:
    if name == "olmo":
        # mlx-lm's olmo ends the process if it cannot import this package, which it never uses.
        sys.modules.setdefault("hf_olmo", types.ModuleType("hf_olmo"))
    return importlib.import_module(f"mlx_lm.models.{name}")
