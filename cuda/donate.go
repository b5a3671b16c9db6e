package cuda

import (
	"fmt"
	"slices"
	"strings"
)

// aliasInputs marks inputs of a StableHLO program (by their numbers) as giving their
// memory to results of the same type, the first that is free for each, as JAX does
// with donated arguments. It returns the program's new text and the inputs that
// found a result. GoMLX's XLA client only destroys donated inputs after the call:
// without the mark XLA makes room for the result beside them. A text of another form
// than go-xla's stays as it is.
func aliasInputs(text string, donate []int) (out string, aliased []int) {
	const begin, middle = "func.func @main(", ") -> "
	from := strings.Index(text, begin)
	if from < 0 || len(donate) == 0 {
		return text, nil
	}
	from += len(begin)
	line, _, _ := strings.Cut(text[from:], "\n")
	inputs, results, ok := strings.Cut(line, middle)
	results, open := strings.CutSuffix(results, " {")
	if !ok || !open || strings.ContainsAny(inputs+results, "{}\"") {
		return text, nil
	}
	ins := strings.Split(inputs, ", ")
	outs := strings.Split(strings.TrimSuffix(strings.TrimPrefix(results, "("), ")"), ", ")
	taken := make([]bool, len(outs))
	for _, i := range donate {
		if i >= len(ins) || slices.Contains(aliased, i) {
			continue
		}
		_, typ, ok := strings.Cut(ins[i], ": ")
		if !ok {
			return text, nil
		}
		for k, o := range outs {
			if !taken[k] && o == typ {
				ins[i] += fmt.Sprintf(" {tf.aliasing_output = %d : i32}", k)
				taken[k], aliased = true, append(aliased, i)
				break
			}
		}
	}
	return text[:from] + strings.Join(ins, ", ") + text[from+len(inputs):], aliased
}
