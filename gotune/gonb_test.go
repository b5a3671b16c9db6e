package gotune

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The types that GoNB decodes into, by its own names.
type (
	gonbMIME    string
	gonbDisplay struct {
		Data      map[gonbMIME]any
		Metadata  map[string]any
		DisplayID string
	}
	gonbComm struct {
		Address string
		Request bool
		Value   any
	}
)

func init() { gob.RegisterName("github.com/janpfeifer/gonb/gonbui/protocol.CommValue", gonbComm{}) }

// TestGobStream reads our hand-written stream with encoding/gob.
func TestGobStream(t *testing.T) {
	big := strings.Repeat("é", 70_000)
	stream := bytes.Join([][]byte{gobTypes(), gobDisplay("id-1", [2]string{"text/html", "<b>x</b>"}, [2]string{"text/plain", ""}),
		gobDisplay("", [2]string{"text/html", big}), gobSync(7), gobSync(-300)}, nil)
	d := gob.NewDecoder(bytes.NewReader(stream))
	next := func() (v gonbDisplay) {
		t.Helper()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := next(); v.DisplayID != "id-1" || len(v.Data) != 2 || v.Data["text/html"] != "<b>x</b>" || v.Data["text/plain"] != "" {
		t.Errorf("first message is %+v", v)
	}
	if v := next(); v.DisplayID != "" || v.Data["text/html"] != big {
		t.Errorf("second message has id %q and %d bytes", v.DisplayID, len(v.Data["text/html"].(string)))
	}
	for _, want := range []int{7, -300} {
		if v, ok := next().Data["gonb/comm_value"].(gonbComm); !ok || v.Address != "#gonbui/sync" || v.Value != want {
			t.Errorf("sync message is %+v, want number %d", v, want)
		}
	}
	if err := d.Decode(&gonbDisplay{}); err != io.EOF {
		t.Errorf("after the last message: %v", err)
	}
}

// TestGobBesideAnother mixes our stream with that of an encoder in the same
// process, as package gonbui in the same cell would be.
func TestGobBesideAnother(t *testing.T) {
	var b bytes.Buffer
	other := gob.NewEncoder(&b)
	theirs := gonbDisplay{Data: map[gonbMIME]any{"text/html": "theirs", "gonb/comm_value": gonbComm{Address: "a", Value: 1}}, Metadata: map[string]any{"w": 1}}
	if err := other.Encode(theirs); err != nil {
		t.Fatal(err)
	}
	b.Write(gobTypes())
	b.Write(gobDisplay("x", [2]string{"text/html", "ours"}))
	if err := other.Encode(theirs); err != nil {
		t.Fatal(err)
	}
	b.Write(gobSync(1))
	d := gob.NewDecoder(&b)
	for i := range 4 {
		var v gonbDisplay
		if err := d.Decode(&v); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

// A fakeGoNB reads a cell's pipes as GoNB does.
type fakeGoNB struct {
	out, back string
	mu        sync.Mutex
	shown     []gonbDisplay
	syncs     int
}

// newFakeGoNB makes the pipes and reads them until the test ends.
func newFakeGoNB(t *testing.T) *fakeGoNB {
	dir := t.TempDir()
	g := &fakeGoNB{out: filepath.Join(dir, "out"), back: filepath.Join(dir, "back")}
	for _, p := range []string{g.out, g.back} {
		if err := syscall.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ready := make(chan *os.File, 1)
	go func() {
		f, err := os.Open(g.out)
		if err != nil {
			t.Error(err)
		}
		b, err := os.OpenFile(g.back, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
		}
		ready <- f
		g.read(f, b)
		b.Close()
	}()
	t.Cleanup(func() {
		// Open the ends the program may not have opened, so that the reader ends.
		select {
		case f := <-ready:
			f.Close()
		default:
			w, _ := os.OpenFile(g.out, os.O_WRONLY, 0)
			r, _ := os.Open(g.back)
			(<-ready).Close()
			w.Close()
			r.Close()
		}
	})
	return g
}

func (g *fakeGoNB) read(f *os.File, back *os.File) {
	d := gob.NewDecoder(bufio.NewReader(f))
	e := gob.NewEncoder(back)
	for {
		var v gonbDisplay
		if d.Decode(&v) != nil {
			return
		}
		if c, ok := v.Data["gonb/comm_value"].(gonbComm); ok {
			g.mu.Lock()
			g.syncs++
			g.mu.Unlock()
			_ = e.Encode(gonbComm{Address: "#gonbui/sync_ack", Value: c.Value})
			continue
		}
		time.Sleep(time.Millisecond) // publishing takes time
		g.mu.Lock()
		g.shown = append(g.shown, v)
		g.mu.Unlock()
	}
}

// displays returns what was shown so far, in order.
func (g *fakeGoNB) displays() []gonbDisplay {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]gonbDisplay(nil), g.shown...)
}

// TestSyncWaits shows that nothing is in the pipe any more after a sync.
func TestSyncWaits(t *testing.T) {
	g := newFakeGoNB(t)
	n, err := openNotebook(g.out, g.back)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for i := 1; i <= 20; i++ {
		id := n.newID()
		ids[id] = true
		if !n.show(id, "<p>x</p>", "x") {
			t.Fatal("the notebook does not listen")
		}
		n.sync()
		if got := len(g.displays()); got != i {
			t.Fatalf("%d displays after sync %d", got, i)
		}
	}
	if len(ids) != 20 {
		t.Errorf("%d different ids of 20", len(ids))
	}
	n.sync()
	if g.syncs != 20 {
		t.Errorf("%d syncs, want 20: one with nothing new is not sent", g.syncs)
	}
	n.back = nil // as beside gonbui
	n.show(n.newID(), "", "")
	n.sync()
	if got := len(g.displays()); got != 21 {
		t.Errorf("%d displays after draining, want 21", got)
	}
}
