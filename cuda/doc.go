// Package cuda knows the machine's compute devices: which GPUs the CUDA driver
// shows and what they can do ([Devices], [Device]), what the CPU can do
// ([Host]), and where the PJRT plugins are that XLA runs on ([Find], [Fetch]).
//
// A PJRT plugin is a shared library that holds XLA for one kind of device. gotune
// takes plugins from Python wheels, pinned by version and sha256, and keeps them
// in the user's cache folder; nothing else of Python is used at run time.
//
//	cpu    wheel lammps-jax-pjrt-cpu, one file of 202 MB
//	cuda   wheel jax-cuda12-plugin or jax-cuda13-plugin with the nvidia-* wheels
//	       beside it, as `pip install "jax[cuda13]"` lays them out
//
// # Compiled programs
//
// [Attach] puts entries in front of some of a plugin's own functions: what XLA
// compiles is kept in the user's cache folder ([ProgramCache]) and loaded by later
// processes. A program's key is the sha256 of its text and compile options, the plugin,
// the device, the driver, the processor, XLA's flags and gotune's release. Programs
// call gotune's kernels by name, never by address, so that they may be kept.
// Measured on two CPU cores: the tests of package layerwise, 197 programs, take
// 76 s when they compile them and 5 s when they find them, 19 MB.
//
// # Kernels
//
// Folder kernel holds gotune's own CUDA kernels: the product of a packed 4-bit matrix with
// vectors for decoding ([PackedProduct]), and of training steps a norm with its dropped
// copies ([RMSNorm]), its gradient with the residual sum ([RMSNormBackward]) and the gradient
// through adapters' dropped inputs ([DroppedSum]). NVRTC compiles them for the GPU at hand
// in 2 to 3 s, once for an installation ([UseKernels]); XLA's programs call them as custom
// calls. Package layerwise holds each against XLA's code on the device before its use, and a
// test runs the training kernels' source on a processor (kernel/testdata/host.c).
// GOTUNE_KERNELS=off leaves all of them out.
//
// The package is the only one of gotune with cgo: it opens libcuda.so.1 by name
// at run time, so programs start on machines without a GPU as well.
package cuda
