package kernelext

import (
	"context"
	"errors"
	"fmt"
	"html"
	"strconv"
	"strings"

	"github.com/gotune/gotune/gotune"
)

// underWay lists the runs that train or are paused.
func (k *kernel) underWay(ctx context.Context) (runs []gotune.RunInfo, err error) {
	s, err := k.engineStatus(ctx)
	if errors.Is(err, errNoEngine) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range s.Runs {
		if r.State == gotune.RunRunning || r.State == gotune.RunPaused {
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// theRun is the run that a command is about: the named one, or the only one under way.
func (k *kernel) theRun(ctx context.Context, usage string, named []string) (string, error) {
	if len(named) > 1 {
		return "", fmt.Errorf("%s takes one run, and was given %q", usage, named)
	}
	if len(named) == 1 {
		return named[0], nil
	}
	runs, err := k.underWay(ctx)
	if err != nil {
		return "", err
	}
	switch len(runs) {
	case 0:
		return "", fmt.Errorf("%s needs a run under way, and none is: %%gotune runs lists all", usage)
	case 1:
		return runs[0].Name, nil
	}
	var names []string
	for _, r := range runs {
		names = append(names, quoteWord(r.Name))
	}
	return "", fmt.Errorf("%s has to name its run, since several are under way: %s", usage, strings.Join(names, ", "))
}

// runLine says where a run stands.
func runLine(r gotune.RunInfo) string {
	s := fmt.Sprintf("%s is %s at step %d of %d.", r.Name, r.State, r.Step, r.TotalSteps)
	if n := len(r.Controls); n > 0 && r.Controls[n-1].What == gotune.ControlRate {
		c := r.Controls[n-1]
		s = fmt.Sprintf("%s, after step %d: learning rate %g → %g.", r.Name, c.Step, c.Old, c.New)
	}
	return s
}

func (k *kernel) magicPause(ctx context.Context, args []string) (*magicResult, error) {
	return k.order(ctx, "%gotune pause [RUN]", "run.pause", args)
}

func (k *kernel) magicResume(ctx context.Context, args []string) (*magicResult, error) {
	return k.order(ctx, "%gotune resume [RUN]", "run.resume", args)
}

// order asks a run for a change without a value.
func (k *kernel) order(ctx context.Context, usage, verb string, named []string) (*magicResult, error) {
	name, err := k.theRun(ctx, usage, named)
	if err != nil {
		return nil, err
	}
	var r gotune.RunInfo
	if err := k.engine.call(ctx, verb, object{"Name": name}, &r); err != nil {
		return nil, err
	}
	return plain(runLine(r)), nil
}

func (k *kernel) magicRate(ctx context.Context, args []string) (*magicResult, error) {
	const usage = "%gotune lr [RUN] X"
	if len(args) == 0 {
		return nil, errors.New(usage + " takes the new learning rate, such as 1e-4")
	}
	last := len(args) - 1
	rate, err := strconv.ParseFloat(args[last], 64)
	if err != nil || !(rate > 0 && rate < 1) {
		return nil, fmt.Errorf("%s takes a rate above 0 and below 1, such as 1e-4, and was given %q", usage, args[last])
	}
	name, err := k.theRun(ctx, usage, args[:last])
	if err != nil {
		return nil, err
	}
	var r gotune.RunInfo
	if err := k.engine.call(ctx, "run.setlr", object{"Name": name, "LearningRate": rate}, &r); err != nil {
		return nil, err
	}
	return plain(runLine(r)), nil
}

// magicSample takes the first word for a run only if it is the name of one under way, so that a prompt needs
// no quotes.
func (k *kernel) magicSample(ctx context.Context, args []string) (*magicResult, error) {
	const usage = `%gotune sample [RUN] "PROMPT"`
	if len(args) == 0 {
		return nil, errors.New(usage + " takes a prompt")
	}
	runs, err := k.underWay(ctx)
	if err != nil {
		return nil, err
	}
	var named []string
	for _, r := range runs {
		if len(args) > 1 && r.Name == args[0] {
			named = args[:1]
		}
	}
	prompt := strings.Join(args[len(named):], " ")
	name, err := k.theRun(ctx, usage, named)
	if err != nil {
		return nil, err
	}
	sampling, err := gotune.Sampling{}.Resolved()
	if err != nil {
		return nil, err
	}
	var g gotune.Generation
	if err := k.engine.call(ctx, "run.sample", object{"Name": name, "Prompt": prompt, "Sampling": sampling}, &g); err != nil {
		return nil, err
	}
	note := fmt.Sprintf("%s, %d tokens in %.1f s", name, g.Tokens, g.Seconds)
	return &magicResult{text: prompt + "\n→ " + g.Text + "\n(" + note + ")",
		html: `<p><b>` + html.EscapeString(prompt) + `</b></p><pre style="margin:0;white-space:pre-wrap">` + html.EscapeString(g.Text) +
			`</pre><p style="opacity:.7">` + html.EscapeString(note) + "</p>"}, nil
}

func (k *kernel) magicStop(ctx context.Context, names []string) (*magicResult, error) {
	if len(names) == 0 {
		runs, err := k.underWay(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return plain("No run trains."), nil
	}
	var lines []string
	for _, name := range names {
		var r gotune.RunInfo
		if err := k.engine.call(ctx, "run.stop", object{"Name": name}, &r); err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s is %s at step %d of %d.", r.Name, r.State, r.Step, r.TotalSteps))
	}
	return plain(strings.Join(lines, "\n")), nil
}

func (k *kernel) magicRuns(ctx context.Context, _ []string) (*magicResult, error) {
	s, err := k.engineStatus(ctx)
	if errors.Is(err, errNoEngine) {
		return plain("No engine runs, so there are no runs. It starts by itself with the first cell that uses gotune."), nil
	}
	if err != nil {
		return nil, err
	}
	if len(s.Runs) == 0 {
		return plain("The engine has no runs."), nil
	}
	var rows [][]string
	for _, r := range s.Runs {
		loss := ""
		if r.Step > 0 && r.Loss == r.Loss {
			loss = fmt.Sprintf("%.4f", r.Loss)
		}
		rows = append(rows, []string{r.Name, r.State, fmt.Sprintf("%d of %d", r.Step, r.TotalSteps), loss, spanText(r.Seconds), r.OutputDir})
	}
	return tableResult("", []string{"run", "state", "step", "loss", "took", "folder"}, rows), nil
}
