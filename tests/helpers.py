"Tiny random models that the tests share"
import torch
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config)

TINY = dict(vocab_size=99, hidden_size=48, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=5, intermediate_size=64,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=512)


def config_of(family, **kwargs):
    from transformers import Gemma2Config, Gemma3TextConfig, GraniteConfig, SmolLM3Config
    make = dict(
        llama=lambda: LlamaConfig(**{**TINY, **kwargs}),
        llama_tied=lambda: LlamaConfig(**{**TINY, 'tie_word_embeddings': True, **kwargs}),
        llama_bias=lambda: LlamaConfig(**{**TINY, 'attention_bias': True, **kwargs}),
        qwen2=lambda: Qwen2Config(**{**TINY, **kwargs}),
        qwen3=lambda: Qwen3Config(**{**TINY, 'head_dim': 16, **kwargs}),
        mistral=lambda: MistralConfig(**{**TINY, 'head_dim': 8, 'sliding_window': None, **kwargs}),
        smollm3=lambda: SmolLM3Config(**{**TINY, **kwargs}),
        olmo2=lambda: Olmo2Config(**{**TINY, **kwargs}),
        granite=lambda: GraniteConfig(**{**TINY, 'attention_multiplier': 0.2, 'logits_scaling': 3., 'residual_multiplier': 0.7, 'embedding_multiplier': 2., **kwargs}),
        gemma2=lambda: Gemma2Config(**{**TINY, 'head_dim': 16, 'query_pre_attn_scalar': 7, 'attn_logit_softcapping': 3., 'final_logit_softcapping': 5., 'sliding_window': 8, 'attn_implementation': 'eager', **kwargs}),
        gemma3=lambda: Gemma3TextConfig(**{**TINY, 'head_dim': 16, 'query_pre_attn_scalar': 7, 'sliding_window': 8, 'layer_types': ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention', 'full_attention'], **kwargs}),
        mistral_window=lambda: MistralConfig(**{**TINY, 'head_dim': 8, 'sliding_window': 8, **kwargs}),
        qwen2_window=lambda: Qwen2Config(**{**TINY, 'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 3, **kwargs}),
    )
    return make[family]()


FAMILIES = ('llama', 'llama_tied', 'llama_bias', 'qwen2', 'qwen3', 'mistral', 'smollm3', 'olmo2', 'granite')


def tiny_teacher(family='llama', seed=0, **kwargs):
    "Random weights, biases and norms included: nothing is 0 or 1, nothing cancels"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family, **kwargs))
    with torch.no_grad():
        for p in model.parameters(): p.normal_(0, 0.25).add_(1. if p.dim() == 1 else 0.)
    return model.eval().requires_grad_(False)


def tiny_folder(place, **shape):
    "A tiny random Llama with SmolLM2's tokenizer, saved"
    from hybrid_tutorial.models.teachers import load_teacher
    _, tok = load_teacher('smollm2-135m')
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), tie_word_embeddings=True, eos_token_id=tok.eos_token_id, **shape)).save_pretrained(place)
    tok.save_pretrained(place)
    return place


NEAR = dict(window=4)      # of the default mixer, for texts shorter than its window of 64, in which it would answer as the teacher does


def tokens(B=2, T=40, seed=0, vocab=99):
    return torch.randint(3, vocab, (B, T), generator=torch.Generator().manual_seed(seed))
