package gotune

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Doctor looks at this machine and shows what gotune will use of it: backend,
// devices, memory, precision, caches, and what to do where something is missing.
func Doctor() (DoctorInfo, error) { return DoctorContext(inCell) }

// DoctorContext is [Doctor] for programs.
func DoctorContext(ctx context.Context) (DoctorInfo, error) {
	return do(ctx, request{verb: wire.VerbDoctor, what: "look at the machine", args: struct{}{}}, func(i DoctorInfo) (string, string) {
		html, text := "", ""
		for _, t := range i.tables() {
			html += t.html()
			text += t.text() + "\n"
		}
		return html, strings.TrimSuffix(text, "\n")
	})
}

func (i DoctorInfo) tables() []table {
	token := "none found (only private and gated repositories need one)"
	if i.HubToken {
		token = "found"
	}
	all := []table{facts("gotune "+i.Version, "system", strings.Trim(i.OS+", built with "+i.Go, ", "), "backend", i.Backend, "plugin", i.Plugin,
		"precision", strings.Trim(i.Precision+"; "+i.Advice, "; "),
		"processors", countText(i.CPUs), "main memory", fmt.Sprintf("%s, %s free", sizeText(i.HostMemory), sizeText(i.HostFree)),
		"cache", fmt.Sprintf("%s, %s free", i.CacheDir, sizeText(i.CacheFree)), "downloads", i.HubCache, "Hub token", token)}
	if len(i.Devices) > 0 {
		t := table{title: "Devices", head: []string{"device", "capability", "driver", "bfloat16", "flash attention", "memory", "free"}, left: 5}
		for _, d := range i.Devices {
			t.rows = append(t.rows, []string{d.Name, d.Capability, d.Driver, yesNo(d.BF16), yesNo(d.FlashAttention), sizeText(d.Memory), sizeText(d.Free)})
		}
		all = append(all, t)
	}
	if len(i.Checks) > 0 {
		t := table{title: "Checks", head: []string{"", "what", "found", "what to do"}, left: 4}
		for _, c := range i.Checks {
			mark := "✓"
			if !c.OK {
				mark = "✗"
			}
			t.rows = append(t.rows, []string{mark, c.What, c.Found, c.Next})
		}
		all = append(all, t)
	}
	return all
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// Status shows what the engine holds and does. It starts no engine: without one
// it says so, and PID is 0.
func Status() (StatusInfo, error) { return StatusContext(inCell) }

// StatusContext is [Status] for programs.
func StatusContext(ctx context.Context) (StatusInfo, error) {
	show := func(i StatusInfo) (string, string) {
		html, text := "", ""
		for _, t := range i.tables() {
			html += t.html()
			text += t.text() + "\n"
		}
		return html, strings.TrimSuffix(text, "\n")
	}
	i, err := do(ctx, request{verb: wire.VerbStatus, what: "ask for the status", args: struct{}{}, noStart: true}, show)
	if errors.Is(err, ErrNotFound) {
		s := current()
		s.show("<div>No engine is running; the next verb starts one.</div>", "No engine is running; the next verb starts one.\n")
		s.sync()
		return StatusInfo{Socket: wire.SocketPath()}, nil
	}
	return i, err
}

// Free unloads all models and empties the caches of the engine, so that other
// programs can have the device's memory. A run under way is ErrBusy.
func Free() (StatusInfo, error) { return FreeContext(inCell) }

// FreeContext is [Free] for programs.
func FreeContext(ctx context.Context) (StatusInfo, error) {
	return do(ctx, request{verb: wire.VerbFree, what: "free the memory", args: struct{}{}}, func(i StatusInfo) (string, string) {
		line := fmt.Sprintf("Freed: the engine holds %s on the device.", sizeText(i.DeviceBytes))
		return "<div>" + escape(line) + "</div>", line + "\n"
	})
}

func (i StatusInfo) tables() []table {
	idle := "never"
	if i.IdleExit > 0 {
		idle = "after " + secondsText(i.IdleExit) + " without work"
	}
	all := []table{facts("Engine "+i.Version, "process", fmt.Sprint(i.PID), "running for", secondsText(i.Seconds), "backend", i.Backend,
		"device memory", fmt.Sprintf("%s held, %s at most", sizeText(i.DeviceBytes), sizeText(i.DevicePeak)),
		"main memory", sizeText(i.HostBytes), "ends", idle, "socket", i.Socket, "log", i.LogFile)}
	if len(i.Models) > 0 {
		t := table{title: "Models", head: []string{"name", "source", "held as", "memory"}, left: 3}
		for _, m := range i.Models {
			t.rows = append(t.rows, []string{m.Model.Name, m.Model.Source, m.Model.Quant.Type, sizeText(m.DeviceBytes)})
		}
		all = append(all, t)
	}
	if len(i.Datasets) > 0 {
		t := table{title: "Data sets", head: []string{"name", "source", "split", "rows"}, left: 3}
		for _, d := range i.Datasets {
			t.rows = append(t.rows, []string{d.Dataset.Name, d.Dataset.Source, d.Dataset.Split, countText(d.Rows)})
		}
		all = append(all, t)
	}
	if len(i.Runs) > 0 {
		t := table{title: "Runs", head: []string{"name", "state", "folder", "step", "loss"}, left: 3}
		for _, r := range i.Runs {
			t.rows = append(t.rows, []string{r.Name, r.State, r.OutputDir, fmt.Sprintf("%d of %d", r.Step, r.TotalSteps), lossText(r.Loss)})
		}
		all = append(all, t)
	}
	if len(i.Jobs) > 0 {
		t := table{title: "Under way", head: []string{"verb", "what", "task", "done", "for"}, left: 3}
		for _, j := range i.Jobs {
			t.rows = append(t.rows, []string{j.Verb, j.Object, j.Task, amountText(j.Done, j.Total, ""), secondsText(j.Seconds)})
		}
		all = append(all, t)
	}
	return all
}
