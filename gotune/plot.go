package gotune

import (
	"context"
	"fmt"
)

// PlotOptions says how [Plot] draws.
type PlotOptions struct {
	_ struct{}

	// Smooth is the number of steps that the thick line looks back over, as the
	// weight 2/(Smooth+1) of an exponential moving average. Default: a twentieth
	// of the steps; 1: not smoothed.
	Smooth int
}

// Plot draws the losses of runs over each other, each step and smoothed, from
// their records, under way or finished.
//
//	gotune.Check(gotune.Plot(gotune.PlotOptions{}, run, gotune.Trainer{Name: "another"}))
func Plot(o PlotOptions, runs ...Trainer) error { return PlotContext(inCell, o, runs...) }

// PlotContext is [Plot] for programs.
func PlotContext(ctx context.Context, o PlotOptions, runs ...Trainer) error {
	if len(runs) == 0 {
		return &Error{Kind: KindInvalid, Op: "plot", Found: "no runs", Wanted: "one or more"}
	}
	if o.Smooth < 0 {
		return &Error{Kind: KindInvalid, Op: "check", Object: "PlotOptions.Smooth", Found: fmt.Sprint(o.Smooth), Wanted: "a whole number that is not negative"}
	}
	t := table{head: []string{"run", "state", "steps", "first loss", "last loss", "lowest (smoothed)", "evaluation"}, left: 2}
	var curves []curve
	last := 0
	for _, run := range runs {
		info, err := run.RecordContext(ctx)
		if err != nil {
			return err
		}
		c := newCurve(info.Name, info.Records, info.Controls, o.Smooth)
		curves = append(curves, c)
		last = max(last, info.Step)
		t.rows = append(t.rows, c.row(info))
	}
	s := current()
	s.show(card(lossChart(cardStyle, curves, last), lossAlt(curves))+t.html(), t.text())
	s.sync()
	return nil
}

// row is a run's line below the plot.
func (c curve) row(info RunInfo) []string {
	first, end, low, eval := "–", "–", "–", "–"
	if n := len(c.raw); n > 0 {
		first, end = lossText(c.raw[0]), lossText(c.raw[n-1])
		best := c.smooth[0]
		for _, v := range c.smooth {
			best = min(best, v)
		}
		low = lossText(best)
	}
	if n := len(c.evalY); n > 0 {
		eval = lossText(c.evalY[n-1])
	}
	return []string{info.Name, info.State, countText(info.Step), first, end, low, eval}
}
