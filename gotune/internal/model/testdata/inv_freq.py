#!/usr/bin/env python3
"""Prints inv_freq.json: the rotary inverse frequencies that transformers computes for
configurations of published models (bits of each float32, in hexadecimal)."""
import json
import struct

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

llama3 = dict(rope_type="llama3", rope_theta=500000.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
cases = {
    "llama-2-7b": dict(hidden_size=4096, num_attention_heads=32, rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "linear-4": dict(hidden_size=2048, num_attention_heads=32, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    "llama-3.1-8b": dict(hidden_size=4096, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=dict(factor=8.0, **llama3)),
    "llama-3.2-1b": dict(hidden_size=2048, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=dict(factor=32.0, **llama3)),
}
out = dict(transformers=transformers.__version__, torch=torch.__version__, cases={})
for name, keys in cases.items():
    freqs = LlamaRotaryEmbedding(LlamaConfig(**keys)).inv_freq.tolist()
    config = dict(model_type="llama", intermediate_size=1, num_hidden_layers=1, vocab_size=8, **keys)
    out["cases"][name] = dict(config=config, bits=[struct.pack(">f", f).hex() for f in freqs])
print(json.dumps(out, indent=1))
