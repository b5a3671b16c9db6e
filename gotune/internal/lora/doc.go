// Package lora holds low-rank adapters: it makes them, reads and writes them in
// PEFT's format, and merges them into a model's weights.
//
// An adapter on a frozen weight W [out, in] is a pair A [R, in], B [out, R] (Hu
// et al., "LoRA: Low-Rank Adaptation of Large Language Models",
// arXiv:2106.09685, section 4.1). The layer computes
//
//	y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ,   s = alpha/R
//
// Variants: rank-stabilized LoRA scales by alpha/√R (Kalajdzievski,
// arXiv:2312.03732). DoRA (Liu et al., arXiv:2402.09353, equation 5) gives each
// output row a learned length m [out]:
//
//	W' = m · (W + s·B·A) / ‖W + s·B·A‖   (norm of each row)
//
// # Files
//
// PEFT's folder holds adapter_config.json and adapter_model.safetensors, whose
// tensors are named "base_model.model." + module + ".lora_A.weight",
// ".lora_B.weight" and ".lora_magnitude_vector".
package lora
