package cuda

import "fmt"

// Device is one GPU as the CUDA driver shows it.
type Device struct {
	Index         int
	Name          string // "NVIDIA H200"
	Major, Minor  int    // compute capability: 7.5 for a T4, 9.0 for an H200
	TotalBytes    int64  // device memory
	FreeBytes     int64  // free when it was asked; 0 when the driver would not say
	SMs           int    // streaming multiprocessors
	DriverVersion int    // CUDA version of the driver, 1000·major + 10·minor
}

// BF16 says whether the GPU has bfloat16 matrix units: compute capability 8.0
// and newer. The walkthrough's advice for such a GPU is bf16 instead of fp16.
func (d Device) BF16() bool { return d.Major >= 8 }

// FlashAttention says whether cuDNN's fused attention runs there: compute
// capability 8.0 and newer.
func (d Device) FlashAttention() bool { return d.Major >= 8 }

// FP8 says whether the GPU has 8-bit float matrix units: 8.9 and newer.
func (d Device) FP8() bool { return d.Major > 8 || d.Major == 8 && d.Minor >= 9 }

// String names the device with its capability and memory.
func (d Device) String() string {
	return fmt.Sprintf("%s (sm_%d%d, %.1f GiB)", d.Name, d.Major, d.Minor, float64(d.TotalBytes)/(1<<30))
}

// ProductRate is about how many operations the GPU's 16-bit matrix units do in a second of
// training, half of what they can at 1.5 GHz: 3.1e13 for a T4, 4.1e14 for an H200. It is
// for choices that need no better figure.
func (d Device) ProductRate() float64 {
	clock := map[int]float64{70: 512, 75: 512, 80: 1024, 86: 512, 89: 512, 90: 2048} // multiply-adds of a multiprocessor
	n := clock[10*d.Major+d.Minor]
	if n == 0 {
		n = 1024
	}
	return 2 * n * float64(d.SMs) * 1.5e9 / 2
}
