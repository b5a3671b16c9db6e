// # Decoding
//
// A [Decoder] reads one token a step, a [BatchDecoder] one of each row. A step is
// bound by the bytes of the weights: of Llama-2-7B in NF4 3.65 GB of codes and scales
// and 0.26 GB of output layer, 1.2 to 1.4 ms on a GPU of 3 TB/s. What unpacks a matrix first
// moves eight times that (codes once, 13 GB written, 13 GB read) and is bound by
// the table's look-ups besides: 31 tokens/s on an H100, measured. So on a GPU
//
//   - 4-bit matrices are multiplied as they are stored: by one reduction of XLA's that
//     reads words of eight codes (packedProduct), or, where it holds against that on the
//     device, by the CUDA kernel of cuda/kernel/packed_product.cu, called from inside
//     XLA's program (GOTUNE_KERNELS=off leaves it out; [Base.Kernels] says what is used);
//   - one call runs eight layers, 4 calls and two small ones a token for 32 layers;
//     layers that are alike share the program;
//   - the likeliest token is picked on the device and read by the next step from there;
//     the host sees ids one step later. Logits come to the host for sampling alone;
//   - an adapter's matrices are read in float32 as the trainer keeps them, one
//     reduction each.
//
// Measured on an H200 (benchgpu decode): 237 tokens/s of Llama-2-7B in NF4 behind a prompt
// of 200, 193 with an adapter of rank 64 on q and v; a prompt's tokens at 11,500/s. Of the
// 5.2 ms of a step with adapter the host takes 4.7 to issue the calls (some hundred kernels), so
// the next gain is fewer kernels a layer or a graph of them, not bytes.
//
// Keys and values lie in [B, K, M, d] for each layer; a step writes one slot in place,
// for inputs and results share their memory (package cuda).
// Rows of a batch take the same slot in every step, from the longest prompt on; a
// row's own position is its prompt's length and the steps since, and what lies between
// is masked, so that ragged prompts cost no moves.
//
// On a CPU nothing of this pays: matrices stay unpacked, each layer is a call.
package layerwise
