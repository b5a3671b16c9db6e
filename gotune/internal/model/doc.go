// Package model knows the Llama family's files: what config.json says, which
// weights a checkpoint must hold and in which shapes, and how to reach them in
// single files, in shards, and in folders quantized by bitsandbytes.
//
// # Shapes
//
// H hidden size, I intermediate size, V vocabulary, N heads, K key/value heads,
// D head dimension. A linear layer is stored [out, in], row-major.
//
//	model.embed_tokens.weight                       [V, H]
//	model.layers.L.input_layernorm.weight           [H]
//	model.layers.L.self_attn.q_proj.weight          [N·D, H]
//	model.layers.L.self_attn.{k,v}_proj.weight      [K·D, H]
//	model.layers.L.self_attn.o_proj.weight          [H, N·D]
//	model.layers.L.post_attention_layernorm.weight  [H]
//	model.layers.L.mlp.{gate,up}_proj.weight        [I, H]
//	model.layers.L.mlp.down_proj.weight             [H, I]
//	model.norm.weight                               [H]
//	lm_head.weight                                  [V, H], absent if tied to embed_tokens
//
// With AttentionBias or MLPBias each of those projections has a bias [out].
//
// Everything here is plain Go and does no more I/O than reading the folder given.
package model
