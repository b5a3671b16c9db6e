package train

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A Schedule gives the learning rate of a step, counted from 0.
type Schedule func(step int) float64

// A shape is a schedule for a rate of 1: the lambda of transformers' LambdaLR.
type shape func(t float64) float64

// scheduleKind builds a shape; args are transformers' lr_scheduler_kwargs.
type scheduleKind struct {
	args  []string
	build func(lr, warmup, total float64, args Args) (shape, error)
}

// Args are a schedule's further parameters under the names of transformers'
// lr_scheduler_kwargs: numbers, and strings for warmup_type and decay_type.
type Args map[string]any

// kinds are the schedules of transformers/optimization.py.
var kinds = map[string]scheduleKind{
	"constant":                  {nil, constant},
	"constant_with_warmup":      {nil, constantWithWarmup},
	"linear":                    {nil, linear},
	"cosine":                    {[]string{"num_cycles"}, cosine},
	"cosine_with_restarts":      {[]string{"num_cycles"}, cosineWithRestarts},
	"polynomial":                {[]string{"lr_end", "power"}, polynomial},
	"inverse_sqrt":              {[]string{"timescale"}, inverseSqrt},
	"cosine_with_min_lr":        {[]string{"min_lr", "min_lr_rate", "num_cycles"}, cosineWithMinLR},
	"cosine_warmup_with_min_lr": {[]string{"min_lr", "min_lr_rate", "num_cycles", "warmup_lr_rate"}, cosineWarmupWithMinLR},
	"warmup_stable_decay": {[]string{"num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"},
		warmupStableDecay},
}

// ScheduleNames lists the names that [NewSchedule] knows, sorted.
func ScheduleNames() []string { return slices.Sorted(maps.Keys(kinds)) }

// NewSchedule returns transformers' learning-rate schedule of that name for a
// peak rate lr, warmup steps and total steps. With t the step and w the warm-up,
// all but "constant" (which has none) begin with lr·t/w for t < w, so the first
// step has rate 0 (cosine_warmup_with_min_lr begins with lr·(t+1)/w); then, with
// p = (t-w)/(total-w):
//
//	constant, constant_with_warmup  lr
//	linear                          lr·(1-p)
//	cosine                          lr·(1+cos(2π·num_cycles·p))/2      num_cycles 0.5
//	cosine_with_restarts            lr·(1+cos(π·(num_cycles·p mod 1)))/2  num_cycles 1
//	polynomial                      (lr-lr_end)·(1-p)^power + lr_end   lr_end 1e-7, power 1
//	inverse_sqrt                    lr/√((t-w+s)/s)                    s = timescale, w, or 10000
//	cosine_with_min_lr              cosine, scaled to end at min_lr or lr·min_lr_rate
//	cosine_warmup_with_min_lr       the same with p = (t-w+1)/(total-w)
//	warmup_stable_decay             lr for num_stable_steps, then down in num_decay_steps
//
// It fails for unknown names and arguments, listing the known ones.
func NewSchedule(name string, lr float64, warmup, total int, args Args) (Schedule, error) {
	kind, ok := kinds[name]
	if !ok {
		return nil, fmt.Errorf("train: unknown learning-rate schedule %q: wanted one of %s", name, strings.Join(ScheduleNames(), ", "))
	}
	if !(lr >= 0) || math.IsInf(lr, 0) || warmup < 0 || total < 0 {
		return nil, fmt.Errorf("train: schedule %q with rate %v, %d warm-up and %d total steps: wanted a finite rate and no negative number", name, lr, warmup, total)
	}
	for k := range args {
		if !slices.Contains(kind.args, k) {
			return nil, fmt.Errorf("train: schedule %q has no argument %q: wanted %s", name, k, orNone(kind.args))
		}
	}
	f, err := kind.build(lr, float64(warmup), float64(total), args)
	if err != nil {
		return nil, fmt.Errorf("train: schedule %q: %w", name, err)
	}
	return func(step int) float64 { return lr * f(float64(step)) }, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return "one of " + strings.Join(names, ", ")
}

// number returns args[key], or def if it is missing.
func (a Args) number(key string, def float64) (float64, error) {
	v, ok := a[key]
	if !ok || v == nil {
		return def, nil
	}
	switch x := v.(type) {
	case float64:
		return x, nil
	case int:
		return float64(x), nil
	case int64:
		return float64(x), nil
	case uint64:
		return float64(x), nil
	case json.Number:
		return x.Float64()
	}
	return 0, fmt.Errorf("argument %s is %v (%T), wanted a number", key, v, v)
}

// numbers reads several numbers at once; each value of def is keyed by name.
func (a Args) numbers(def map[string]float64) (map[string]float64, error) {
	out := make(map[string]float64, len(def))
	for k, d := range def {
		v, err := a.number(k, d)
		if err != nil {
			return nil, err
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("argument %s is %v, wanted a finite number", k, v)
		}
		out[k] = v
	}
	return out, nil
}

// ramp is f with a linear warm-up from 0 to 1 before it.
func ramp(warmup float64, f shape) shape {
	return func(t float64) float64 {
		if t < warmup {
			return t / math.Max(1, warmup)
		}
		return f(t)
	}
}

// after is the share of the steps after the warm-up that are done.
func after(t, warmup, total float64) float64 { return (t - warmup) / math.Max(1, total-warmup) }

// wave is (1+cos(2π·cycles·p))/2.
func wave(cycles, p float64) float64 { return 0.5 * (1 + math.Cos(math.Pi*cycles*2*p)) }

func constant(_, _, _ float64, _ Args) (shape, error) {
	return func(float64) float64 { return 1 }, nil
}

func constantWithWarmup(_, w, _ float64, _ Args) (shape, error) {
	return ramp(w, func(float64) float64 { return 1 }), nil
}

func linear(_, w, n float64, _ Args) (shape, error) {
	return ramp(w, func(t float64) float64 { return math.Max(0, (n-t)/math.Max(1, n-w)) }), nil
}

func cosine(_, w, n float64, args Args) (shape, error) {
	cycles, err := args.number("num_cycles", 0.5)
	return ramp(w, func(t float64) float64 { return math.Max(0, wave(cycles, after(t, w, n))) }), err
}

func cosineWithRestarts(_, w, n float64, args Args) (shape, error) {
	cycles, err := args.number("num_cycles", 1)
	return ramp(w, func(t float64) float64 {
		p := after(t, w, n)
		if p >= 1 {
			return 0
		}
		return math.Max(0, 0.5*(1+math.Cos(math.Pi*math.Mod(cycles*p, 1))))
	}), err
}

func polynomial(lr, w, n float64, args Args) (shape, error) {
	a, err := args.numbers(map[string]float64{"lr_end": 1e-7, "power": 1})
	if err != nil {
		return nil, err
	}
	end, power := a["lr_end"], a["power"]
	if lr <= end {
		return nil, fmt.Errorf("lr_end %g must be smaller than the learning rate %g", end, lr)
	}
	return ramp(w, func(t float64) float64 {
		if t > n || n == w {
			return end / lr
		}
		return ((lr-end)*math.Pow(1-(t-w)/(n-w), power) + end) / lr
	}), nil
}

func inverseSqrt(_, w, _ float64, args Args) (shape, error) {
	def := w
	if def == 0 {
		def = 10_000
	}
	scale, err := args.number("timescale", def)
	if err == nil && !(scale > 0) {
		err = fmt.Errorf("timescale is %v, wanted a positive number", scale)
	}
	return ramp(w, func(t float64) float64 { return 1 / math.Sqrt((t+scale-w)/scale) }), err
}

// minRate resolves min_lr and min_lr_rate, of which exactly one must be given.
func minRate(lr float64, args Args) (float64, error) {
	_, absolute := args["min_lr"]
	_, relative := args["min_lr_rate"]
	switch {
	case absolute && relative:
		return 0, fmt.Errorf("both min_lr and min_lr_rate are set, wanted one of them")
	case absolute:
		v, err := args.number("min_lr", 0)
		if err == nil && lr == 0 {
			err = fmt.Errorf("min_lr needs a learning rate above 0")
		}
		return v / lr, err
	case relative:
		return args.number("min_lr_rate", 0)
	}
	return 0, fmt.Errorf("min_lr or min_lr_rate must be set, the rate to end with or its share of the learning rate")
}

func cosineWithMinLR(lr, w, n float64, args Args) (shape, error) {
	low, err := minRate(lr, args)
	if err != nil {
		return nil, err
	}
	cycles, err := args.number("num_cycles", 0.5)
	return ramp(w, func(t float64) float64 {
		return math.Max(0, wave(cycles, after(t, w, n))*(1-low)+low)
	}), err
}

func cosineWarmupWithMinLR(lr, w, n float64, args Args) (shape, error) {
	low, err := minRate(lr, args)
	if err != nil {
		return nil, err
	}
	a, err := args.numbers(map[string]float64{"num_cycles": 0.5, "warmup_lr_rate": -1})
	if err != nil {
		return nil, err
	}
	cycles, first := a["num_cycles"], a["warmup_lr_rate"]
	return func(t float64) float64 {
		if t < w && first < 0 {
			return (t + 1) / math.Max(1, w)
		} else if t < w {
			return first + (1-first)*t/math.Max(1, w-1)
		}
		return math.Max(0, wave(cycles, (t-w+1)/math.Max(1, n-w))*(1-low)+low)
	}, nil
}

// bend is how a phase of warmup_stable_decay runs: down gives the factor after a
// share p of a decay, up that after a share p of a warm-up.
type bend struct {
	up, down func(p, cycles float64) float64
}

var bends = map[string]bend{
	"linear": {func(p, _ float64) float64 { return p }, func(p, _ float64) float64 { return 1 - p }},
	"cosine": {func(p, _ float64) float64 { return 0.5 * (1 - math.Cos(math.Pi*p)) }, func(p, c float64) float64 { return wave(c, p) }},
	"1-sqrt": {func(p, _ float64) float64 { return 1 - math.Sqrt(1-p) }, func(p, _ float64) float64 { return 1 - math.Sqrt(p) }},
}

func (a Args) bend(key, def string) (bend, error) {
	name := def
	if v, ok := a[key]; ok {
		if name, ok = v.(string); !ok {
			return bend{}, fmt.Errorf("argument %s is %v (%T), wanted a string", key, v, v)
		}
	}
	b, ok := bends[name]
	if !ok {
		return bend{}, fmt.Errorf("%s is %q, wanted linear, cosine or 1-sqrt", key, name)
	}
	return b, nil
}

func warmupStableDecay(_, w, n float64, args Args) (shape, error) {
	if _, ok := args["num_decay_steps"]; !ok {
		return nil, fmt.Errorf("num_decay_steps must be set, the steps of the last phase")
	}
	up, err := args.bend("warmup_type", "linear")
	if err != nil {
		return nil, err
	}
	down, err := args.bend("decay_type", "cosine")
	if err != nil {
		return nil, err
	}
	a, err := args.numbers(map[string]float64{"num_decay_steps": 0, "num_stable_steps": -1, "min_lr_ratio": 0, "num_cycles": 0.5})
	if err != nil {
		return nil, err
	}
	decay, stable, low, cycles := a["num_decay_steps"], a["num_stable_steps"], a["min_lr_ratio"], a["num_cycles"]
	if stable < 0 {
		stable = n - w - decay
	}
	lift := func(f float64) float64 { return math.Max(0, f*(1-low)+low) }
	return func(t float64) float64 {
		switch {
		case t < w:
			return lift(up.up(t/math.Max(1, w), cycles))
		case t < w+stable:
			return 1
		case t < w+stable+decay:
			return lift(down.down((t-w-stable)/math.Max(1, decay), cycles))
		}
		return low
	}, nil
}
