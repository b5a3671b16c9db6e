// Package quant packs weights into 4-bit blocks (NF4, FP4) and 8-bit blocks
// (dynamic), and unpacks them again, bit for bit as bitsandbytes does.
//
// NF4 is the 16-level code of Dettmers et al., "QLoRA: Efficient Finetuning of
// Quantized LLMs" (arXiv:2305.14314, section 3 and appendix E); FP4 is
// bitsandbytes' float of 1 sign, 2 exponent and 1 fraction bit. A weight matrix is
// read as one row-major run of values and cut into blocks. Each block keeps one
// float32 scale, its largest magnitude:
//
//	w[i] ≈ code[c[i]] * absmax[i/BlockSize]
//
// so a block of 64 costs 32 bytes of codes and 4 bytes of scale: 4.5 bits a
// weight. Double quantization (QLoRA, section 3) stores the scales themselves,
// less their mean, in 8 bits with one float32 for 256 of them: 4.13 bits.
//
// # The exact rule
//
// With m = absmax, a full block scales by a product, x·f32(1/max(m, 1e-38)), the
// last block, if it is short, by a division, x/max(m, 1e-38). The code is the
// number of midpoints f32((c[k]+c[k+1])/2) of the sorted levels that lie below
// the scaled value, so a tie goes to the lower level. A short last block stores
// max(m, 1e-38).
//
// # Layout
//
// Two codes share a byte, the earlier weight in the high nibble; the low nibble
// of an odd last byte is the code of zero. Codes are stored in the same order as
// bitsandbytes stores them, so its checkpoints load without a shuffle.
//
// Every fast loop has a plain one beside it that states the rule; tests hold the
// two equal. Everything is plain Go and safe for concurrent use. Conversions use
// all cores.
package quant
