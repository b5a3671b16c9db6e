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
// The package is the only one of gotune with cgo: it opens libcuda.so.1 by name
// at run time, so programs start on machines without a GPU as well.
package cuda
