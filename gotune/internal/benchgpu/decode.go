package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/sample"
)

// decode holds a decoded token's logits against those of reading it with the prompt,
// and measures greedy streams and batches.
func decode(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("decode", flag.ContinueOnError)
	s.flags(fs)
	prompts := fs.String("prompts", "200", "tokens of the prompt, with commas")
	count := fs.Int("tokens", 96, "tokens to generate")
	batches := fs.String("batches", "1", "sequences side by side, with commas; batches of more than one take the first prompt length")
	base := fs.Bool("base", true, "measure without the adapter too")
	if err := fs.Parse(args); err != nil {
		return err
	}
	lengths, err := numbers(*prompts)
	if err != nil {
		return err
	}
	rows, err := numbers(*batches)
	if err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer ses.base.Free()
	ad, err := ses.base.Upload(ses.adapter)
	if err != nil {
		return err
	}
	if err := decodeCheck(ses, ad, lengths[0]); err != nil {
		return err
	}
	for _, b := range rows {
		for i, n := range lengths {
			if b > 1 && i > 0 {
				break
			}
			if err := decodeCase(ses, s.dtype+" adapter", ad, b, n, *count); err != nil {
				return err
			}
		}
	}
	if *base {
		return decodeCase(ses, s.dtype+" base", nil, 1, lengths[0], *count)
	}
	return nil
}

// numbers reads positive numbers between commas.
func numbers(list string) (out []int, err error) {
	for _, f := range strings.Split(list, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no list of positive numbers", list)
		}
		out = append(out, n)
	}
	return out, nil
}

// decodeCheck reads a token behind a prompt and together with it: ‖a − b‖ / ‖b‖ of
// the logits.
func decodeCheck(ses *session, ad *layerwise.DeviceAdapter, n int) error {
	d, err := ses.base.NewDecoder(ad, n+1)
	if err != nil {
		return err
	}
	defer d.Close()
	ids := full(1, n+1, ses.ck.Config.VocabSize).IDs
	if _, err := d.Prefill(ids[:n]); err != nil {
		return err
	}
	logits, err := d.Step(ids[n])
	if err != nil {
		return err
	}
	got := append([]float32(nil), logits...)
	want, err := d.Prefill(ids)
	if err != nil {
		return err
	}
	diff, norm := 0.0, 0.0
	for i := range want {
		diff += math.Pow(float64(got[i]-want[i]), 2)
		norm += math.Pow(float64(want[i]), 2)
	}
	emit("decode", "check", "", map[string]float64{"logits off": math.Sqrt(diff / norm), "same choice": boolNumber(sample.Argmax(got) == sample.Argmax(want))})
	return nil
}

func boolNumber(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// decodeCase measures rows sequences behind prompts of n tokens: picked on the device
// (Greedy), picked on the host, and with every call awaited.
func decodeCase(ses *session, name string, ad *layerwise.DeviceAdapter, rows, n, count int) error {
	const awaited = 4
	d, err := ses.base.NewBatchDecoder(ad, rows, n+2*count+awaited+8)
	if err != nil {
		return err
	}
	defer d.Close()
	var prompts [][]int32
	for r := range rows {
		ids := full(1, n, ses.ck.Config.VocabSize).IDs
		prompts = append(prompts, ids[:n-r*n/(4*rows)]) // ragged: the shortest has 3/4 of the longest
	}
	value := map[string]float64{}
	timed := func(name string, f func() error) error {
		start := time.Now()
		err := f()
		value[name] = time.Since(start).Seconds()
		return err
	}
	read := func() error { _, err := d.Prefill(prompts); return err }
	stream := func(n int) func() error {
		return func() error { return d.Greedy(n, func([]int32) (bool, error) { return true, nil }) }
	}
	if err := timed("first prefill s", read); err != nil {
		return err
	}
	if err := timed("prefill s", read); err != nil {
		return err
	}
	if err := timed("first token s", stream(2)); err != nil {
		return err
	}
	ses.trace.reset()
	if err := timed("greedy", stream(count)); err != nil {
		return err
	}
	host := 0.0
	for _, c := range ses.trace.summary() {
		host += c.total.Seconds() * 1e3 / float64(count)
	}
	steps := func(n int) func() error {
		return func() error {
			ids := make([]int32, rows)
			for range n {
				logits, err := d.Step(ids)
				if err != nil {
					return err
				}
				for r, z := range logits {
					ids[r] = sample.Argmax(z)
				}
			}
			return nil
		}
	}
	if err := timed("stepped", steps(count/2)); err != nil {
		return err
	}
	cuda.AwaitCalls(true)
	defer cuda.AwaitCalls(false)
	ses.trace.reset()
	if err := timed("awaited", steps(awaited)); err != nil {
		return err
	}
	var programs []string
	for _, c := range ses.trace.summary() {
		programs = append(programs, fmt.Sprintf("%s %d× %.2f ms", c.name, c.n/awaited, c.total.Seconds()*1e3/awaited))
	}
	ms := value["greedy"] * 1e3 / float64(count)
	emit("decode", fmt.Sprintf("%s B=%d prompt %d", name, rows, n), strings.Join(programs, ", "), map[string]float64{
		"tok/s": float64(rows) * 1e3 / ms, "step ms": ms, "host ms in calls": host, "weights GB/s": float64(ses.base.Bytes()) / 1e6 / ms,
		"picked on host, step ms": value["stepped"] * 1e3 / float64(count/2), "awaited step ms": value["awaited"] * 1e3 / awaited,
		"prefill s": value["prefill s"], "prefill tok/s": float64(rows*n) / value["prefill s"], "first prefill s": value["first prefill s"], "first token s": value["first token s"], "GiB": ses.gib()})
	return nil
}
