// Package safetensors reads and writes tensors in the safetensors format of
// Hugging Face.
//
// A file is an 8-byte little-endian header length N, N bytes of JSON, and the
// tensors' bytes:
//
//	{"__metadata__": {"format": "pt"},
//	 "model.norm.weight": {"dtype": "BF16", "shape": [4096], "data_offsets": [0, 8192]}, …}
//
// Offsets count from the end of the header. The tensors' ranges must follow each
// other without gap or overlap and end with the file; values are row-major and
// little-endian. The specification is the README of
// github.com/huggingface/safetensors; this reader refuses all that the official
// one refuses, and also names or fields given twice.
//
// # Reading
//
// [Open] maps the file and checks its whole header, so a [Tensor] handed out
// later is known to lie inside the file. Its Data is a view of the mapping, valid
// until [File.Close]. [File.Drop] gives a tensor's pages back, so that reading a
// model of any size keeps about one tensor in memory. [File.Reader] copies values
// out instead, a piece at a time, which is the faster way to read each of them once.
//
// # Writing
//
// [Create] starts a [Writer] that takes the tensors one by one. The file appears
// under its name only when [Writer.Commit] has everything on disk.
package safetensors
