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
// With TrainOptions.FP8, off unless asked for, products of a training step with the base
// take 8-bit floats: e4m3, one scale for each tensor, rounded anew in every step for
// activations and gradients (float8.go). Seen on a CPU, where the same programs run
// slowly: gradients of an adapter's tensors are off by up to 0.14 (relative) in two random
// layers, by 0.19 to 0.31 in two of 7B shape on a GPU, where bfloat16 is off by 0.036; of
// 50 steps on the embedded model no loss is more than 0.06 off, their mean 0.001, and the
// loss on other data 0.001.
//
// # Attention
//
// Rows of one document with padding behind take the device's fused attention (cuDNN's
// flash attention: XLA on a GPU of compute capability 8.0 or newer, bfloat16 and
// float16, heads up to 128) once it has been held against plain attention on that
// device; its gradient may differ in the last bits from run to run. Packed rows take it
// in one of two ways, each held against plain attention before its use, too:
//
//	ragged  the documents where they lie, by lengths and offsets (ragged.go): compute
//	        capability 9.0 or newer
//	bias    whole rows with a bias [B, 1, S, S] on the scores: other GPUs, and sliding
//	        windows shorter than a row
//
// On an H200 (7B shapes, B=4, S=1,024, layers unpacked) a step of packed rows takes 195 ms by
// ragged, one of whole rows 194; by bias 8 ms more. Gradients by ragged are off by 0.036 there in
// bfloat16, as those of whole rows are. On documents of real lengths (benchgpu packed)
// packed rows train 20,955 useful tokens/s; padded batches grouped by length 15,325, of whose
// tokens 75 % are useful in four lengths, shuffled ones 10,647. Unsloth trains the
// grouped ones, each as long as its longest document, at 10,099 in the same run: short
// batches do not fill the GPU.
//
// All else takes plain attention, whose scores exist for an eighth of a row's queries at
// a time: a T4, a CPU, float32. GOTUNE_ATTENTION=plain turns the fused one off, bias its
// ragged way; [Base.Attention] says what is used.
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
// Llama-2-7B shapes on an H200, NF4, r=64 on q and v, B=4, bfloat16, dropout 0.1, tokens/s
// and the peak of device memory in GiB (scripts/bench_gpu):
//
//	                                             S=512           S=1,024         S=2,048
//	residuals kept, layers unpacked (auto)       20,989 (22.3)   21,159 (28.4)   20,527 (40.2)
//	the same, forward in 8-bit floats                            24,943 (34.3)   23,898 (46.1)
//	the same, both ways in 8-bit floats                          29,737 (28.2)   28,971 (40.0)
//	residuals kept                               18,411 (10.7)   19,477 (16.5)   19,291 (28.3)
//	computed again, double quantization          14,394 (5.3)    14,997 (6.1)    14,855 (7.9)
//	offload, double quantization                 13,523 (4.4)    14,837 (4.8)    14,769 (5.5)
//	the same, forward in 8-bit floats            14,444 (4.6)    17,026 (4.8)    18,426 (5.6)
//	the same, both ways in 8-bit floats          14,583 (4.6)    18,249 (4.7)    20,542 (5.4)
//	Unsloth in the run of the first row          15,762 (11.6)   17,208 (18.4)   17,246 (32.0)
//	Unsloth, offloaded checkpointing, same run    9,777 (4.6)    11,761 (5.0)    11,921 (5.7)
//
// Offload is by parts, with attention kept in the host's memory too. The first row, the sixth and
// Unsloth's are of one run; machines differ: on two others the first row was 21,315 and
// 20,609, Unsloth 17,785 and 17,767 at S=1,024 and 2,048, and 21,675 and 20,840. Planned
// peaks are within 1 % of these, offload 3 %. One row of 41,984 tokens trains in 14.5 GiB
// (peak 8.3 GiB, 6,346 tokens/s). B=4, S=1,024 in float16 with plain attention trains there,
// too (peak 13.3 GiB). The first step takes 9 s in a new installation, the kernels 2, and 1 s with the
// programs in the cache. Llama-3-8B shapes: 18,380 tokens/s at S=1,024 (31.0 GiB).
//
// A layer's forward takes 2.66 ms at S=1,024 with unpacked layers, of which the products of
// the base take 2.30, attention 0.10, all else 0.26; its backward 3.17, of which 2.37, 0.35
// and 0.45. The products run at 815 TFLOP/s in the first steps and at 680 to 700 from then
// on: the GPU is at its limit of 700 W, and its clock falls from 1,980 to 1,470 to 1,600 MHz. So a
// step's time is its energy, of which the products are about four fifths. What that taught:
//
//   - The training kernels (trainkernel.go) take 0.06 ms of a layer's 5.8 away and make a step 0
//     to 0.7 % faster at S=1,024 and 0.7 % at S=2,048, in pairs of runs with and without them.
//   - cuBLAS's algorithms for a product, each run hot for a quarter of a second, differ by less
//     than two runs of the same one do (3 %), but for those that are plainly slow. XLA's choice,
//     made cold, is among the best. Weights turned over, for gradients, gain nothing.
//   - Programs without command buffers (--xla_gpu_enable_command_buffer=) are as fast.
//   - 8-bit floats halve the products' energy ([TrainOptions.FP8]).
//
// Next by size in bfloat16: products without a workspace, whose kernels need no counter set to
// zero before them (XLA takes those for weights that are slices of a larger tensor; it gave
// 190 µs for 198 on another operand), about 1 %: entries gemm { autotune_workspace_size: 0 }
// in the file of --xla_gpu_load_autotune_results_from, for XLA refuses its own calls of
// cuBLAS in a program's text; the masks' arithmetic, which is what the kernels'
// time is now; gaps between kernels 0.06 ms a layer. cuda/dev traces every kernel's time.
//
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
