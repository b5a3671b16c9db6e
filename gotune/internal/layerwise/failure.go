package layerwise

import (
	"errors"
	"fmt"
	"strings"
)

// ErrOutOfMemory is wrapped by errors of calls for which the device had no memory.
var ErrOutOfMemory = errors.New("out of device memory")

// failure says what was being done when err came from the backend. Where memory
// ran out it says what takes less; XLA's account of its pool, some pages, is left to
// [errors.Unwrap].
func failure(doing string, err error) error {
	text := err.Error()
	for _, mark := range []string{"RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "OUT_OF_MEMORY"} {
		if i := strings.Index(text, mark); i >= 0 {
			return &memoryError{doing, clip(text[i:]), err}
		}
	}
	return fmt.Errorf("layerwise: %s: %w", doing, err)
}

// memoryError is a failure for lack of device memory.
type memoryError struct {
	doing, text string
	err         error
}

func (e *memoryError) Error() string {
	return fmt.Sprintf("layerwise: %s: %v (%s); set GradientCheckpointing \"offload\", or a smaller BatchSize or MaxSeqLength", e.doing, ErrOutOfMemory, e.text)
}

// Is makes errors.Is(err, ErrOutOfMemory) true.
func (e *memoryError) Is(target error) bool { return target == ErrOutOfMemory }

func (e *memoryError) Unwrap() error { return e.err }

// clip is the first line of text, at most 200 bytes of it.
func clip(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

// shortName is what a program does and its sizes: the words of its key between the
// model's fingerprint and the first that goes into details ("q_proj:4096,…").
func shortName(key string) string {
	if _, rest, ok := strings.Cut(key, fingerprintEnd); ok {
		key = rest
	}
	words := strings.Fields(key)
	for i, w := range words {
		if i > 0 && strings.ContainsAny(w, ":{") {
			return strings.Join(words[:i], " ")
		}
	}
	return strings.Join(words, " ")
}
