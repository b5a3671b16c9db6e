// W·x for a 4-bit matrix W [out, in] as bitsandbytes stores it, one warp a row:
//
//	y[r, o] = Σ_block absmax[o, block] · Σ_i code[nibble(o, i)] · x[r, i]        (float32)
//
// A lane loads 16 bytes at once, 32 codes of one block, so a warp reads 512
// consecutive bytes. The table of 16 values stands in shared memory once for each lane
// (bank = lane), so that 32 different codes never meet in a bank; x stands there
// in the order in which lanes read it. in is a multiple of 32, block of 32; y is f32.
// Blocks of threads stay for all rows: x and table are laid out once.

extern "C" __constant__ float gotune_codes[2][16] = {
	{-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
	 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
	{0.0f, 0.0052083334885537624f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,
	 0.0f, -0.0052083334885537624f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f, -0.25f}};

extern "C" __global__ void __launch_bounds__(256) gotune_packed_product(
	const unsigned char *__restrict__ codes, const float *__restrict__ absmax, const float *__restrict__ x, float *__restrict__ y,
	int out, int in, int block_shift, int type) {
	extern __shared__ float4 shared[];
	float *table = (float *)shared;
	float4 *xs = shared + 128;
	const int t = threadIdx.x, lane = t & 31, warps = blockDim.x >> 5;
	for (int i = t; i < 512; i += blockDim.x) table[i] = gotune_codes[type][i >> 5];
	x += (size_t)blockIdx.y * in;
	y += (size_t)blockIdx.y * out;
	for (int i = t; i < in / 4; i += blockDim.x) { // element 4i: chunk, lane, place among the lane's 32
		const int e = i * 4;
		xs[((e >> 10) * 8 + ((e >> 2) & 7)) * 32 + ((e >> 5) & 31)] = ((const float4 *)x)[i];
	}
	__syncthreads();
	const int chunks = (in + 1023) >> 10, blocks = in >> block_shift;
	for (int row = blockIdx.x * warps + (t >> 5); row < out; row += gridDim.x * warps) {
		const unsigned char *w = codes + (size_t)row * (in >> 1);
		const float *scale = absmax + (size_t)row * blocks;
		float sum = 0;
#pragma unroll 4
		for (int c = 0; c < chunks; c++) {
			const int at = (c << 10) + (lane << 5);
			if (at >= in) break;
			const uint4 q = __ldcs((const uint4 *)(w + (at >> 1)));
			const float s = __ldg(scale + (at >> block_shift));
			const unsigned words[4] = {q.x, q.y, q.z, q.w};
			float part = 0;
#pragma unroll
			for (int k = 0; k < 4; k++) {
				const float4 a = xs[(c * 8 + 2 * k) * 32 + lane], b = xs[(c * 8 + 2 * k + 1) * 32 + lane];
				const unsigned p = words[k];
#define VALUE(shift) table[(((p >> (shift)) & 15) << 5) | lane]
				part = fmaf(VALUE(4), a.x, part);
				part = fmaf(VALUE(0), a.y, part);
				part = fmaf(VALUE(12), a.z, part);
				part = fmaf(VALUE(8), a.w, part);
				part = fmaf(VALUE(20), b.x, part);
				part = fmaf(VALUE(16), b.y, part);
				part = fmaf(VALUE(28), b.z, part);
				part = fmaf(VALUE(24), b.w, part);
			}
			sum = fmaf(part, s, sum);
		}
		for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
		if (!lane) y[row] = sum;
	}
}
