// Package token turns text into token ids and ids into text, exactly as the
// tokenizers and sentencepiece libraries do for Llama-family models.
//
// It reads two files. tokenizer.json (the tokenizers library, one file with every
// step spelled out) holds a pipeline:
//
//	text → added tokens → normalizer → pre-tokenizer → BPE → post-processor → ids
//	ids → tokens → decoder → text
//
// tokenizer.model (sentencepiece, a protobuf of pieces and scores) holds a BPE
// vocabulary whose merge order is the pieces' scores; see [ReadModel].
//
// Two families matter. Llama-2 and Mistral v1–v3 replace spaces by U+2581 "▁",
// put one in front of the text, and spell unknown characters as bytes
// "<0xE2>". Llama-3, Qwen2 and GPT-2 cut the text by a regular expression and
// spell each byte as one printable character (byte-level BPE, Radford et al.
// 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
//
// # Byte pair encoding
//
// BPE (Sennrich et al., arXiv:1508.07909, section 3.2) starts from characters
// and repeats: among all adjacent pairs that the merge list knows, join the one
// of lowest rank, the leftmost first. Here a heap holds the candidate pairs, so a
// word of n characters costs O(n log n).
//
// # Concurrency
//
// A [Tokenizer] is safe for concurrent use. A [Stream] belongs to one goroutine.
package token
