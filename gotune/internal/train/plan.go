package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// A Plan is all that is known of a run before its first step.
type Plan struct {
	// Config is the given one with its defaults filled in.
	Config Config

	// Steps is the number of optimizer steps, Warmup how many of them warm up.
	Steps, Warmup int

	// MicroBatches and StepsPerEpoch are those of one epoch.
	MicroBatches, StepsPerEpoch int

	// Examples and EvalExamples are the numbers of rows, Tokens the tokens of
	// one epoch, padding not counted.
	Examples, EvalExamples, Tokens int

	// Buckets are the lengths S of all batches, ascending; training batches have
	// the shape [BatchSize, S], evaluation [EvalBatchSize, S].
	Buckets []int

	// Padded is the tokens of the first epoch with padding: Tokens/Padded is the
	// share of useful work.
	Padded int

	// Data identifies the examples and what orders them. A State continues
	// only a plan with the same Data.
	Data string

	lengths  []int
	examples []batch.Example
	eval     [][]batch.Example
	schedule Schedule
	collator batch.Collator
	order    []int // of epoch orderOf
	orderOf  int
}

// surveyed is the number of epochs whose batches decide on the buckets.
const surveyed = 8

// NewPlan checks cfg and works out steps, warm-up and shapes for the examples,
// so that a caller can compile and prove the fit before training. eval may be
// empty. The examples must not change while the plan is in use.
func NewPlan(cfg Config, examples, eval []batch.Example) (*Plan, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	if len(examples) == 0 {
		return nil, fmt.Errorf("train: there are no examples: check the data set's source and split")
	}
	p := &Plan{Config: cfg, Examples: len(examples), EvalExamples: len(eval), examples: examples, lengths: batch.Lengths(examples), orderOf: -1}
	p.MicroBatches = ceilDiv(len(examples), cfg.BatchSize)
	p.StepsPerEpoch = ceilDiv(p.MicroBatches, cfg.GradAccum)
	p.Steps = cfg.MaxSteps
	if p.Steps <= 0 {
		steps := math.Ceil(cfg.Epochs * float64(p.StepsPerEpoch))
		if steps > math.MaxInt32 {
			return nil, fmt.Errorf("train: %g epochs of %d steps are %g steps, wanted at most %d: lower Epochs or set MaxSteps", cfg.Epochs, p.StepsPerEpoch, steps, math.MaxInt32)
		}
		p.Steps = int(steps)
	}
	p.Warmup = cfg.WarmupSteps
	if p.Warmup == 0 {
		p.Warmup = int(math.Ceil(cfg.WarmupRatio * float64(p.Steps)))
	}
	if p.schedule, err = p.Schedule(cfg.LearningRate); err != nil {
		return nil, err
	}
	p.eval = evalBatches(eval, cfg.EvalBatchSize)
	if err := p.chooseShapes(); err != nil {
		return nil, err
	}
	p.Data = fingerprint(cfg, examples)
	return p, nil
}

// LearningRate is the rate of a step counted from 0.
func (p *Plan) LearningRate(step int) float64 { return p.schedule(step) }

// Schedule is the plan's schedule with another peak rate. It fails for a rate
// that the schedule can't have, for example one below its lowest.
func (p *Plan) Schedule(peak float64) (Schedule, error) {
	return NewSchedule(p.Config.Schedule, peak, p.Warmup, p.Steps, p.Config.ScheduleArgs)
}

// evalBatches groups the rows by length, longest first, so that little is padded.
func evalBatches(eval []batch.Example, size int) [][]batch.Example {
	if len(eval) == 0 {
		return nil
	}
	sorted := slices.Clone(eval)
	slices.SortStableFunc(sorted, func(a, b batch.Example) int { return len(b.IDs) - len(a.IDs) })
	return slices.Collect(slices.Chunk(sorted, size))
}

// chooseShapes looks at the longest row of every batch of the first epochs. A
// later epoch's batch fits too, since the longest row is in every epoch.
func (p *Plan) chooseShapes() error {
	var longest []int
	epochs := min(ceilDiv(p.Steps, p.StepsPerEpoch), surveyed)
	firstEpoch := 0
	for e := range epochs {
		if err := p.seek(e); err != nil {
			return err
		}
		for chunk := range slices.Chunk(p.order, p.Config.BatchSize) {
			n := 0
			for _, i := range chunk {
				n = max(n, p.lengths[i])
			}
			longest = append(longest, n)
		}
		if e == 0 {
			firstEpoch = len(longest)
		}
	}
	for _, rows := range p.eval {
		longest = append(longest, len(rows[0].IDs))
	}
	o := p.Config.Buckets
	if o.Price > 0 { // of the run, for lengths of one row of each batch looked at
		o.Price = max(1, o.Price*len(longest)/max(1, p.Steps*p.Config.GradAccum*p.Config.BatchSize))
	}
	p.Buckets = batch.Buckets(longest, o)
	p.collator = batch.Collator{Buckets: p.Buckets, Pad: p.Config.Pad}
	for _, n := range p.lengths {
		p.Tokens += n
	}
	for _, n := range longest[:firstEpoch] {
		s, err := p.collator.Shape(n)
		if err != nil {
			return err
		}
		p.Padded += s * p.Config.BatchSize
	}
	return nil
}

// seek makes p.order that of the epoch.
func (p *Plan) seek(epoch int) error {
	if p.orderOf == epoch {
		return nil
	}
	order, err := batch.Order(p.lengths, p.Config.BatchSize*p.Config.GradAccum, p.Config.GroupByLength, p.Config.Seed, epoch)
	if err != nil {
		return err
	}
	p.order, p.orderOf = order, epoch
	return nil
}

// micro returns the micro-batches of a step counted from 0.
func (p *Plan) micro(step int) ([]*batch.Batch, error) {
	if err := p.seek(step / p.StepsPerEpoch); err != nil {
		return nil, err
	}
	rows := p.Config.BatchSize * p.Config.GradAccum
	at := step % p.StepsPerEpoch * rows
	var out []*batch.Batch
	for chunk := range slices.Chunk(p.order[at:min(at+rows, len(p.order))], p.Config.BatchSize) {
		picked := make([]batch.Example, len(chunk))
		for i, j := range chunk {
			picked[i] = p.examples[j]
		}
		b, err := p.collator.Collate(picked, p.Config.BatchSize)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// Largest returns the micro-batches of the step of the first epoch that takes the
// most memory: the one with the largest batch and, of those, with the most
// documents.
func (p *Plan) Largest() ([]*batch.Batch, error) {
	if err := p.seek(0); err != nil {
		return nil, err
	}
	step, longest, most, at := 0, -1, 0, 0
	for chunk := range slices.Chunk(p.order, p.Config.BatchSize) {
		n, pieces := 0, 0
		for _, i := range chunk {
			n, pieces = max(n, p.lengths[i]), pieces+max(1, len(p.examples[i].Pieces))
		}
		s, err := p.collator.Shape(n)
		if err != nil {
			return nil, err
		}
		if s > longest || s == longest && pieces > most {
			step, longest, most = at/p.Config.GradAccum, s, pieces
		}
		if at++; at == p.Steps*p.Config.GradAccum {
			break
		}
	}
	return p.micro(step)
}

// epochAfter is the number of passes done after so many steps.
func (p *Plan) epochAfter(steps int) float64 {
	done := min(steps%p.StepsPerEpoch*p.Config.GradAccum, p.MicroBatches)
	return float64(steps/p.StepsPerEpoch) + float64(done)/float64(p.MicroBatches)
}

// fingerprint hashes (SHA-256, 8 bytes kept) the examples and what orders them.
func fingerprint(c Config, examples []batch.Example) string {
	h := sha256.New()
	fmt.Fprintf(h, "seed %d, batch %d x %d, grouped %v\n", c.Seed, c.BatchSize, c.GradAccum, c.GroupByLength)
	var buf []byte
	for i := range examples {
		e := &examples[i]
		buf = binary.LittleEndian.AppendUint32(buf[:0], uint32(len(e.IDs)))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(e.Pieces)))
		for _, n := range e.Pieces {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(n))
		}
		for _, s := range [][]int32{e.IDs, e.Labels} {
			for _, x := range s {
				buf = binary.LittleEndian.AppendUint32(buf, uint32(x))
			}
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
