package batch

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// Permutation returns a random order of n indices that depends on seed and
// epoch alone, on every machine and Go version: Fisher–Yates from the last
// element down, driven by the PCG generator of math/rand/v2 with state (seed,
// epoch) and Lemire's unbiased reduction.
func Permutation(n int, seed int64, epoch int) []int {
	rng := rand.NewPCG(uint64(seed), uint64(epoch))
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	for i := n - 1; i > 0; i-- {
		j := below(rng, uint64(i+1))
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// below returns a uniform integer in [0, n) (Lemire, arXiv:1805.10941).
func below(rng *rand.PCG, n uint64) uint64 {
	hi, lo := bits.Mul64(rng.Uint64(), n)
	if lo < n {
		for limit := -n % n; lo < limit; {
			hi, lo = bits.Mul64(rng.Uint64(), n)
		}
	}
	return hi
}

// LengthGrouped reorders the random permutation perm of len(lengths) indices so
// that batchSize neighbours have similar lengths, as transformers'
// get_length_grouped_indices does: perm is cut into megabatches of
// min(n/(4·batchSize), 50) batches (at least one), each sorted stably by length,
// longest first, and the longest example of all is swapped to the front, so that
// memory runs out at once or never. batchSize is the rows of one optimizer step
// (batch × accumulation).
func LengthGrouped(lengths []int, batchSize int, perm []int) ([]int, error) {
	if batchSize < 1 || len(perm) != len(lengths) {
		return nil, fmt.Errorf("batch: grouping %d lengths by a permutation of %d with batch size %d: wanted equal numbers and a positive size", len(lengths), len(perm), batchSize)
	}
	out := slices.Clone(perm)
	if len(out) == 0 {
		return out, nil
	}
	size := max(min(len(lengths)/(batchSize*4), 50), 1) * batchSize
	longest := 0
	for at := 0; at < len(out); at += size {
		mega := out[at:min(at+size, len(out))]
		slices.SortStableFunc(mega, func(a, b int) int { return cmp.Compare(lengths[b], lengths[a]) })
		if lengths[mega[0]] > lengths[out[longest]] {
			longest = at
		}
	}
	out[0], out[longest] = out[longest], out[0]
	return out, nil
}

// Order is the sequence in which an epoch (from 0) visits the examples: random
// by seed and epoch, grouped by length if asked.
func Order(lengths []int, batchSize int, groupByLength bool, seed int64, epoch int) ([]int, error) {
	perm := Permutation(len(lengths), seed, epoch)
	if !groupByLength {
		return perm, nil
	}
	return LengthGrouped(lengths, batchSize, perm)
}
