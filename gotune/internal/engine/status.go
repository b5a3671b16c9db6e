package engine

import (
	"runtime"
	"runtime/debug"
	"sort"
	"time"

	"github.com/gotune/gotune/gotune"
)

// status says what the engine holds and does.
func (e *Engine) status(*call, none) (gotune.StatusInfo, error) { return e.statusInfo(), nil }

func (e *Engine) statusInfo() gotune.StatusInfo {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := gotune.StatusInfo{Version: e.options.Version, PID: pid, Socket: e.options.Socket, LogFile: e.options.LogFile,
		Seconds: time.Since(e.started).Seconds(), HostBytes: int64(m.Sys - m.HeapReleased), IdleExit: e.options.Idle.Seconds()}
	for _, d := range e.datasets.all() {
		s.Datasets = append(s.Datasets, d.info)
	}
	for _, l := range e.models.all() {
		s.Models = append(s.Models, l.info)
		s.DeviceBytes += l.base.Bytes()
		s.Backend = l.info.Backend
	}
	for _, r := range e.runs.all() {
		info := r.info()
		info.Records = nil
		s.Runs = append(s.Runs, info)
		s.DevicePeak = max(s.DevicePeak, info.PeakBytes)
	}
	s.DevicePeak = max(s.DevicePeak, s.DeviceBytes)
	e.mu.Lock()
	for j := range e.jobs {
		if j.verb != "status" && j.verb != "ping" {
			s.Jobs = append(s.Jobs, j.info())
		}
	}
	e.mu.Unlock()
	sort.Slice(s.Jobs, func(i, k int) bool { return s.Jobs[i].Seconds > s.Jobs[k].Seconds })
	return s
}

// free gives back all memory that can be loaded again: models, adapters on the
// device, data sets. It refuses while a run has the device.
func (e *Engine) free(c *call, _ none) (gotune.StatusInfo, error) {
	if r := e.runs.running(); r != nil {
		return gotune.StatusInfo{}, busy("memory", r)
	}
	for _, r := range e.runs.all() {
		r.release()
	}
	for _, l := range e.models.all() {
		e.models.remove(l.config.Name)
		l.close()
	}
	for _, d := range e.datasets.all() {
		e.datasets.remove(d.config.Name)
	}
	debug.FreeOSMemory()
	return e.statusInfo(), nil
}

// busy says that a run has the device, and how to get it.
func busy(object string, r *run) error {
	info := r.info()
	doing := "training"
	if info.State == gotune.RunPaused {
		doing = "paused"
	}
	return &gotune.Error{Kind: gotune.KindBusy, Object: object, Found: "run " + quote(info.Name) + " is " + doing + " (" + stepText(info) + ")",
		Wanted: "no run under way", Next: "wait for it, or stop it: gotune.Trainer{Name: " + quote(info.Name) + "}.Stop()"}
}
