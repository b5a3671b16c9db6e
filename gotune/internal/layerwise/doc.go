// Package layerwise runs decoders of the Llama family for QLoRA: one forward and
// one backward executable serve every decoder layer, so that compilation does not
// grow with depth and only one layer's weights are unpacked at a time.
//
//	ids → embed → layer 0 … layer L-1 → head (loss and dHidden at once)
//	                                     ↓
//	update ← layer 0 … layer L-1 (backward) ←
//
// The base weights are frozen: 4-bit codes or 16/32-bit values that live on the
// device ([Base], made by [Load]). Only LoRA matrices are trained ([Trainer]). The
// gradients are written out by hand; [Reference] is the same model as one plain
// graph, which the tests hold every part against.
//
// # Shape letters
//
//	B  rows of a batch           T  tokens of a batch, B·S
//	S  tokens of a row           D  hidden size
//	H  query heads               K  key/value heads, G = H/K
//	d  size of a head            F  size of the MLP
//	V  vocabulary                R  rank of an adapter
//	L  decoder layers            C  rows of one chunk of the loss
//
// # Precision
//
// Matrix products take operands of the compute dtype (float32, bfloat16, float16)
// and sum in float32; norms, softmax, the loss, gradients of adapters and the
// optimizer are float32. The residual stream is float32, or bfloat16 when that is
// the compute dtype.
//
// # Attention
//
// Rows of one document with padding behind take the device's fused attention (cuDNN's
// flash attention: XLA on a GPU of compute capability 8.0 or newer, bfloat16 and
// float16, heads up to 128) once it has been held against plain attention on that
// device; its gradient may differ in the last bits from run to run. Packed rows take
// it too: for attention alone each document is copied to a row of its own (packed.go),
// in few shapes; 9 to 16 documents in 4 rows of 1,024 tokens into 2.8 times their
// tokens, 2.3 times the scores of the packed rows. cuDNN's own packed form needs Hopper
// and is left out. That path is held against plain attention on a CPU; its speed on a
// GPU is still to be measured (benchgpu packed). Sliding windows shorter than a row, a
// T4 and a CPU take plain attention, whose scores exist for an eighth of a row's
// queries at a time. GOTUNE_ATTENTION=plain turns the fused one off; [Base.Attention]
// says what is used.
//
// # Calls
//
// A call of a program on a GPU returns once it is queued (package backend): a step
// reads two numbers at its end, and the device does not idle in between. Errors of
// queued calls show where a result is read; GOTUNE_CALLS=awaited shows them at the call.
//
// # Memory
//
// A layer keeps for its backward pass its residuals, its input, or its input in pinned
// host memory (memory.go); long batches go through a layer that is computed again in chunks
// of tokens (chunked.go). [Trainer.Fit] plans a step before it runs: the step's own code
// runs on tensors that are sizes alone, each program is compiled, and what XLA says
// that it takes is added to what is live at that call and to what the device's
// allocator has in use (plan.go). [Trainer.Choose] takes the policy that computes
// the least again and fits. Donated inputs give their memory to results (package cuda).
//
// # Measured
//
// Llama-2-7B shapes on an H100, NF4, r=64 on q and v, B=4, bfloat16, calls awaited
// and attention plain: 8,683, 11,280 and 11,616 tokens/s at S=512, 1,024 and 2,048 with
// residuals kept; 6,600, 8,392 and 9,237 computed again. Of a step of 363 ms at S=1,024
// the forwards take 155 ms, the backwards 188, of which the matrix products need about
// 76 and 74; the rest is mostly plain attention. The fused attention and the queued
// calls were made for that and are still to be measured there (scripts/bench_gpu).
// On two CPU cores, float32, a step of the embedded model takes about as many
// core-seconds as PyTorch's: both sit at the matrix products' rate.
//
// # Panics
//
// GoMLX panics while a graph is built. Every executable of this package is built
// and run inside one guard that returns such a panic as an error.
//
// Sources: Dettmers et al., arXiv:2305.14314 (QLoRA); Hu et al., arXiv:2106.09685 (LoRA);
// Liu et al., arXiv:2402.09353 (DoRA); Kalajdzievski, arXiv:2312.03732 (rsLoRA).
package layerwise
