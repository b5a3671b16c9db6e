package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/batch"
)

var config = Config{
	Epochs: 3, BatchSize: 2, GradAccum: 3, LearningRate: 0.5, Schedule: "cosine", WarmupRatio: 0.1,
	GroupByLength: true, LogSteps: 4, EvalSteps: 5, SaveSteps: 6, Seed: 42, Buckets: batch.BucketOptions{Multiple: 8},
}

// kept is a checkpoint in memory.
type kept struct {
	snapshot Snapshot
	weights  []float32
}

// recorder collects what a run says.
type recorder struct {
	records []Record
	saves   []kept
	starts  []int
	evals   int
	at      map[int]func() // called after that step
}

func (r *recorder) hooks(s *bigram) Hooks {
	return Hooks{
		Start: func(_ *Plan, resumed int) { r.starts = append(r.starts, resumed) },
		Step: func(rec Record) {
			r.records = append(r.records, rec)
			if f := r.at[rec.Step]; f != nil {
				f()
			}
		},
		Evaluating: func(int, int) { r.evals++ },
		Save: func(p Snapshot) (string, error) {
			p.Name = fmt.Sprint("checkpoint-", p.State.Step)
			r.saves = append(r.saves, kept{p, slices.Clone(s.w)})
			return p.Name, nil
		},
	}
}

func TestRun(t *testing.T) {
	examples, eval := corpus(41, 1), corpus(10, 2)
	s, rec := newBigram(12), &recorder{}
	res, err := Run(context.Background(), config, s, examples, eval, nil, rec.hooks(s))
	if err != nil {
		t.Fatal(err)
	}
	// 41 rows: 21 micro-batches, 7 steps an epoch.
	if p := res.Plan; p.MicroBatches != 21 || p.StepsPerEpoch != 7 || p.Steps != 21 || p.Warmup != 3 {
		t.Errorf("plan %d micro-batches, %d steps an epoch, %d steps, %d warm-up; want 21, 7, 21, 3", p.MicroBatches, p.StepsPerEpoch, p.Steps, p.Warmup)
	}
	if res.Reason != Finished || len(rec.records) != 21 || res.Saved != "checkpoint-21" || !slices.Equal(rec.starts, []int{0}) {
		t.Errorf("%s after %d records, saved %q, started %v", res.Reason, len(rec.records), res.Saved, rec.starts)
	}
	var logged, evaluated, saved []int
	sum, n := 0.0, 0
	for i, r := range rec.records {
		sum, n = sum+r.Loss, n+1
		if r.Step != i+1 || r.Steps != 21 || math.Abs(r.Epoch-float64(i+1)/7) > 1e-12 {
			t.Errorf("record %d: step %d of %d, epoch %g", i, r.Step, r.Steps, r.Epoch)
		}
		if r.Logged {
			logged = append(logged, r.Step)
			if math.Abs(r.MeanLoss-sum/float64(n)) > 1e-12 {
				t.Errorf("step %d: mean loss %g, want %g", r.Step, r.MeanLoss, sum/float64(n))
			}
			sum, n = 0, 0
		}
		if r.Evaluated {
			evaluated = append(evaluated, r.Step)
		}
		if r.Saved != "" {
			saved = append(saved, r.Step)
		}
	}
	if !slices.Equal(logged, []int{4, 8, 12, 16, 20, 21}) || !slices.Equal(evaluated, []int{5, 10, 15, 20, 21}) || !slices.Equal(saved, []int{6, 12, 18, 21}) {
		t.Errorf("logged after %v, evaluated after %v, saved after %v", logged, evaluated, saved)
	}
	if rec.evals != 5*5 {
		t.Errorf("%d batches of evaluation, want 25", rec.evals)
	}
	first, last := rec.records[0], rec.records[20]
	if math.Abs(first.Loss-math.Log(12)) > 1e-6 || last.EvalLoss > first.Loss-0.3 {
		t.Errorf("loss %g at first (want ln 12), evaluation %g at last: the model learned nothing", first.Loss, last.EvalLoss)
	}
	if first.LearningRate != 0 || last.LearningRate <= 0 {
		t.Errorf("rates %g, %g", first.LearningRate, last.LearningRate)
	}
	for _, b := range s.seen {
		if !slices.Contains(res.Plan.Buckets, len(b)/2) {
			t.Errorf("a batch of %d tokens a row, the plan has %v", len(b)/2, res.Plan.Buckets)
		}
	}
	checkEpochs(t, s.seen, examples, 21)
}

// checkEpochs verifies that every 21 micro-batches hold each row once.
func checkEpochs(t *testing.T, seen [][]int32, examples []batch.Example, micro int) {
	t.Helper()
	text := func(ids []int32) string { return fmt.Sprint(ids[:slices.Index(ids, 2)+1]) }
	var want []string
	for _, e := range examples {
		want = append(want, text(e.IDs))
	}
	slices.Sort(want)
	for e := 0; e*micro < len(seen); e++ {
		var got []string
		for _, b := range seen[e*micro : (e+1)*micro] {
			for row := range slices.Chunk(b, len(b)/2) {
				if row[0] == 1 {
					got = append(got, text(row))
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("epoch %d does not hold each row once", e)
		}
	}
}

// TestEvalLoss holds the evaluation against a direct sum over all rows.
func TestEvalLoss(t *testing.T) {
	eval := corpus(7, 5)
	s, rec := newBigram(12), &recorder{}
	if _, err := Run(context.Background(), config, s, corpus(20, 1), eval, nil, rec.hooks(s)); err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, 0
	for _, e := range eval {
		for i := 1; i < len(e.IDs); i++ {
			sum, n = sum-math.Log(s.probs(e.IDs[i-1])[e.IDs[i]]), n+1
		}
	}
	if got := rec.records[len(rec.records)-1].EvalLoss; math.Abs(got-sum/float64(n)) > 1e-12 {
		t.Errorf("evaluation loss %.15g, want %.15g", got, sum/float64(n))
	}
}

// timeless drops what depends on the clock, and what belongs to one part of a
// run only.
func timeless(rs []Record) []Record {
	rs = slices.Clone(rs)
	for i := range rs {
		rs[i].Seconds, rs[i].TokensPerSecond, rs[i].ETA = 0, 0, 0
		rs[i].Entries = quiet(rs[i].Entries)
	}
	return rs
}

func quiet(es []LogEntry) []LogEntry {
	es = slices.Clone(es)
	for i := range es {
		es[i].Seconds = 0
	}
	return es
}

// TestResumeExactly breaks a run at every checkpoint, and by an interrupt after
// every step, and continues it with a new Stepper: batches, records, log and
// weights must equal the unbroken run's, bit for bit.
func TestResumeExactly(t *testing.T) {
	examples, eval := corpus(41, 1), corpus(10, 2)
	whole, all := newBigram(12), &recorder{}
	want, err := Run(context.Background(), config, whole, examples, eval, nil, all.hooks(whole))
	if err != nil {
		t.Fatal(err)
	}
	for stop := 1; stop < 21; stop++ {
		ctx, cancel := context.WithCancel(context.Background())
		s, rec := newBigram(12), &recorder{at: map[int]func(){stop: cancel}}
		res, err := Run(ctx, config, s, examples, eval, nil, rec.hooks(s))
		if err != nil || res.Reason != Interrupted || res.State.Step != stop {
			t.Fatalf("stop at %d: %s at step %d, %v", stop, res.Reason, res.State.Step, err)
		}
		for i, k := range rec.saves {
			at := k.snapshot.State.Step
			next, rec2 := newBigram(12), &recorder{}
			copy(next.w, k.weights)
			res, err := Run(context.Background(), config, next, examples, eval, &k.snapshot, rec2.hooks(next))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := timeless(rec2.records), timeless(all.records[at:]); !reflect.DeepEqual(got, want) {
				t.Fatalf("stop at %d, save %d: records differ from the unbroken run's\n%+v\n%+v", stop, i, got[0], want[0])
			}
			if !slices.Equal(next.w, whole.w) || !slices.Equal(next.m, whole.m) {
				t.Errorf("stop at %d, save %d: weights differ from the unbroken run's", stop, i)
			}
			got := res.State
			got.Seconds = want.State.Seconds
			got.History = quiet(got.History)
			unbroken := want.State
			unbroken.History = quiet(unbroken.History)
			if !reflect.DeepEqual(got, unbroken) {
				t.Errorf("stop at %d, save %d: state\n%+v\nwant\n%+v", stop, i, got, unbroken)
			}
			if !slices.Equal(rec2.starts, []int{at}) {
				t.Errorf("started at %v, want %d", rec2.starts, at)
			}
		}
		if n := rec.saves[len(rec.saves)-1].snapshot.State.Step; n != stop {
			t.Errorf("stopped at %d, last checkpoint is of step %d", stop, n)
		}
	}
}

func TestResumeRefuses(t *testing.T) {
	examples := corpus(20, 1)
	s, rec := newBigram(12), &recorder{}
	if _, err := Run(context.Background(), config, s, examples, nil, nil, rec.hooks(s)); err != nil {
		t.Fatal(err)
	}
	good := rec.saves[0].snapshot
	for _, tt := range []struct {
		name     string
		cfg      func(*Config)
		examples []batch.Example
		snap     func(*Snapshot)
		want     string
	}{
		{"other data", nil, corpus(20, 9), nil, "other data"},
		{"other seed", func(c *Config) { c.Seed++ }, examples, nil, "other data or another order"},
		{"other batch", func(c *Config) { c.BatchSize++ }, examples, nil, "other data or another order"},
		{"damaged counters", nil, examples, func(s *Snapshot) { s.State.Skipped = -1 }, "damaged"},
		{"tensor lost", nil, examples, func(s *Snapshot) { s.Tensors = s.Tensors[:1] }, "restoring the optimizer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, snap := config, good
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			if tt.snap != nil {
				tt.snap(&snap)
			}
			_, err := Run(context.Background(), cfg, newBigram(12), tt.examples, nil, &snap, Hooks{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	// A finished run that is resumed ends at once; with more steps it goes on.
	end := rec.saves[len(rec.saves)-1].snapshot
	res, err := Run(context.Background(), config, newBigram(12), examples, nil, &end, Hooks{})
	if err != nil || res.Reason != Finished || res.State.Step != end.State.Step {
		t.Errorf("resumed at the end: %s at %d, %v", res.Reason, res.State.Step, err)
	}
	cfg := config
	cfg.MaxSteps = end.State.Step + 5
	res, err = Run(context.Background(), cfg, newBigram(12), examples, nil, &end, Hooks{})
	if err != nil || res.State.Step != cfg.MaxSteps {
		t.Errorf("five more steps: at %d, want %d, %v", res.State.Step, cfg.MaxSteps, err)
	}
}

func TestNaNLossStops(t *testing.T) {
	s, rec := newBigram(12), &recorder{}
	s.badAt = 9
	res, err := Run(context.Background(), config, s, corpus(41, 1), nil, nil, rec.hooks(s))
	var e *LossError
	if !errors.As(err, &e) || e.Step != 9 || !math.IsNaN(e.Loss) || e.Saved != "checkpoint-6" {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"step 9", "NaN", "checkpoint-6, is kept", "LearningRate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if res.State.Step != 8 || len(rec.saves) != 1 || res.Saved != "checkpoint-6" {
		t.Errorf("state at step %d, %d saves, last %q", res.State.Step, len(rec.saves), res.Saved)
	}
	// The resumed run knows the checkpoint it came from.
	next := newBigram(12)
	next.badAt = 7
	if _, err := Run(context.Background(), config, next, corpus(41, 1), nil, &rec.saves[0].snapshot, Hooks{}); err == nil || !strings.Contains(err.Error(), "checkpoint-6") {
		t.Errorf("resumed: %v", err)
	}
}

// TestSkippedSteps: the schedule waits, the step counts, and too many end the run.
func TestSkippedSteps(t *testing.T) {
	cfg := config
	cfg.Schedule, cfg.LogSteps = "linear", 1
	plain := newBigram(12)
	if _, err := Run(context.Background(), cfg, plain, corpus(41, 1), nil, nil, Hooks{}); err != nil {
		t.Fatal(err)
	}
	s, rec := newBigram(12), &recorder{}
	s.skipAt, s.scale = [2]int{3, 5}, 1024
	res, err := Run(context.Background(), cfg, s, corpus(41, 1), nil, nil, rec.hooks(s))
	if err != nil || res.State.Skipped != 2 || res.State.Step != 21 {
		t.Fatalf("%d skipped of %d: %v", res.State.Skipped, res.State.Step, err)
	}
	want := append(append(slices.Clone(plain.rates[:3]), plain.rates[2], plain.rates[2]), plain.rates[3:19]...)
	if !slices.Equal(s.rates, want) {
		t.Errorf("rates %v, want %v", s.rates, want)
	}
	if r := rec.records[2]; !r.Skipped || r.LossScale != 1024 {
		t.Errorf("record %+v", r)
	}
	s = newBigram(12)
	s.skipAt = [2]int{3, 100}
	if _, err = Run(context.Background(), cfg, s, corpus(60, 1), nil, nil, Hooks{}); err == nil || !strings.Contains(err.Error(), "20 steps in a row") {
		t.Errorf("always skipping: %v", err)
	}
}

func TestRunErrors(t *testing.T) {
	ok := corpus(8, 1)
	long := []batch.Example{{IDs: []int32{1, 99, 2}, Labels: []int32{1, 99, 2}}}
	mute := []batch.Example{{IDs: []int32{1, 2}, Labels: []int32{1, batch.Ignore}}}
	full := errors.New("no space left on device")
	for _, tt := range []struct {
		name     string
		cfg      func(*Config)
		examples []batch.Example
		eval     []batch.Example
		step     func(*bigram)
		hooks    Hooks
		want     string
	}{
		{name: "no examples", want: "no examples"},
		{name: "batch", examples: ok, cfg: func(c *Config) { c.BatchSize = -1 }, want: "BatchSize is -1"},
		{name: "rate", examples: ok, cfg: func(c *Config) { c.LearningRate = math.Inf(1) }, want: "LearningRate is +Inf"},
		{name: "epochs", examples: ok, cfg: func(c *Config) { c.Epochs = math.NaN() }, want: "Epochs is NaN"},
		{name: "endless", examples: ok, cfg: func(c *Config) { c.Epochs = 1e12 }, want: "lower Epochs"},
		{name: "warm-up", examples: ok, cfg: func(c *Config) { c.WarmupRatio = 2 }, want: "WarmupRatio is 2"},
		{name: "schedule", examples: ok, cfg: func(c *Config) { c.Schedule = "steps" }, want: "unknown learning-rate schedule"},
		{name: "vocabulary", examples: long, want: "step 1 of 1: batch: row 0 token 1 has id 99"},
		{name: "evaluation", examples: ok, eval: ok, step: func(s *bigram) { s.failEval = true }, want: "evaluation after step"},
		{name: "nothing to evaluate", examples: ok, eval: mute, want: "none of the 1 evaluation rows"},
		{name: "full disk", examples: ok, hooks: Hooks{Save: func(Snapshot) (string, error) { return "", full }}, want: "saving after step 2: no space left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Epochs: 1}
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			s := newBigram(12)
			if tt.step != nil {
				tt.step(s)
			}
			_, err := Run(context.Background(), cfg, s, tt.examples, tt.eval, nil, tt.hooks)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestDefaultsAndPlan(t *testing.T) {
	p, err := NewPlan(Config{}, corpus(1000, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := p.Config
	if p.Steps != 250 || c.BatchSize != 4 || c.EvalBatchSize != 4 || c.GradAccum != 1 || c.Schedule != "constant" || p.LearningRate(0) != 0 {
		t.Errorf("1000 rows: %d steps, %+v", p.Steps, c)
	}
	p, err = NewPlan(Config{WarmupRatio: 0.03, MaxSteps: 100, Schedule: "linear", LearningRate: 1}, corpus(10, 1), nil)
	if err != nil || p.Warmup != 3 || p.Steps != 100 || p.LearningRate(3) != 1 {
		t.Errorf("warm-up of %d in %d steps, %v", p.Warmup, p.Steps, err)
	}
	grouped, err := NewPlan(Config{GroupByLength: true, Buckets: batch.BucketOptions{Multiple: 1}}, corpus(400, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := NewPlan(Config{Buckets: batch.BucketOptions{Multiple: 1}}, corpus(400, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if grouped.Padded >= plain.Padded || grouped.Tokens != plain.Tokens || grouped.Padded < grouped.Tokens {
		t.Errorf("%d tokens padded to %d grouped, %d not", plain.Tokens, grouped.Padded, plain.Padded)
	}
}

// A length is compiled when the tokens of padding that it saves in the whole run are worth
// more than its price.
func TestBucketPrice(t *testing.T) {
	padded := func(steps, price int) (tokens, buckets int) {
		p, err := NewPlan(Config{GroupByLength: true, MaxSteps: steps, Buckets: batch.BucketOptions{Multiple: 1, Price: price}}, corpus(400, 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.Padded, len(p.Buckets)
	}
	cheap, many := padded(100, 1)
	dear, one := padded(100, 1<<30)
	if one != 1 || many <= 4 || cheap >= dear {
		t.Errorf("%d lengths and %d tokens for nothing, %d lengths and %d tokens for a price beyond all tokens", many, cheap, one, dear)
	}
	_, short := padded(100, 60)
	if _, long := padded(10000, 60); long <= short {
		t.Errorf("a run of 100 steps takes %d lengths, one of 10,000 takes %d for the same price: want more", short, long)
	}
}

// Largest is the step with the longest rows and, of those, the most documents.
func TestLargest(t *testing.T) {
	examples := corpus(40, 1)
	for i := range examples {
		examples[i].IDs, examples[i].Labels = examples[i].IDs[:4], examples[i].Labels[:4]
	}
	long := func(i int, pieces ...int) {
		e := &examples[i]
		e.IDs, e.Labels, e.Pieces = make([]int32, 20), make([]int32, 20), pieces
	}
	long(7, 20)
	long(23, 5, 5, 10)
	long(31, 10, 10)
	p, err := NewPlan(Config{BatchSize: 2, GradAccum: 2, MaxSteps: 10, Buckets: batch.BucketOptions{Multiple: 1}}, examples, nil)
	if err != nil {
		t.Fatal(err)
	}
	micro, err := p.Largest()
	if err != nil {
		t.Fatal(err)
	}
	documents := 0
	for _, m := range micro {
		documents = max(documents, int(slices.Max(m.Segments)))
	}
	if len(micro) != 2 || max(micro[0].S, micro[1].S) != 20 || documents != 3 {
		t.Errorf("%d micro-batches of %d and %d tokens, %d documents in a row; want 2, one of them the row with 3", len(micro), micro[0].S, micro[1].S, documents)
	}
}

// TestPace holds speed and time left against a clock of one second a step and
// ten for the first, which compiles.
func TestPace(t *testing.T) {
	s := newBigram(12)
	p, err := NewPlan(Config{Epochs: 3, BatchSize: 2}, corpus(20, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	var recs []Record
	r := &runner{plan: p, st: s, hooks: Hooks{Step: func(rec Record) { recs = append(recs, rec) }}, state: State{Data: p.Data}, schedule: p.schedule}
	clock, calls := time.Unix(0, 0), 0
	r.now = func() time.Time {
		if calls++; calls%2 == 0 {
			clock = clock.Add(time.Second)
		}
		if calls == 2 {
			clock = clock.Add(9 * time.Second)
		}
		return clock
	}
	if _, err := r.run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if recs[0].ETA != 290 || recs[1].ETA != 28 || recs[29].ETA != 0 || recs[29].Seconds != 39 {
		t.Errorf("time left %g, %g, %g, in all %g; want 290, 28, 0, 39", recs[0].ETA, recs[1].ETA, recs[29].ETA, recs[29].Seconds)
	}
	sum := 0
	for _, rec := range recs[10:] {
		sum += rec.Tokens
	}
	if got, want := recs[29].TokensPerSecond, float64(sum)/20; math.Abs(got-want) > 1e-9 {
		t.Errorf("%g tokens/s, want %g", got, want)
	}
}

func ExampleRun() {
	s := newBigram(12)
	res, err := Run(context.Background(), Config{Epochs: 2, LearningRate: 1, LogSteps: 5}, s, corpus(40, 3), nil, nil, Hooks{
		Step: func(r Record) {
			if r.Logged {
				fmt.Printf("step %2d/%d epoch %.1f loss %.3f\n", r.Step, r.Steps, r.Epoch, r.MeanLoss)
			}
		},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(res.Reason)
	// Output:
	// step  5/20 epoch 0.5 loss 2.007
	// step 10/20 epoch 1.0 loss 1.591
	// step 15/20 epoch 1.5 loss 1.317
	// step 20/20 epoch 2.0 loss 1.274
	// finished
}
