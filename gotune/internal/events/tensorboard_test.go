package events

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/train"
)

// TestEventBytes holds the encoding against bytes that torch's SummaryWriter
// wrote for the same values and times.
func TestEventBytes(t *testing.T) {
	at := func(bits uint64) float64 { return math.Float64frombits(bits) }
	for _, tt := range []struct {
		name string
		got  message
		want string
	}{
		{"text", summary(at(0x41dac173af485fc3), 0, textValue("args/text_summary", `{"a": 1}`)),
			"09c35f48af73c1da412a330a310a11617267732f746578745f73756d6d6172794212080712041202080142087b2261223a20317d4a080a060a0474657874"},
		{"scalar", summary(at(0x41dac173af486092), 25, scalar("train/loss", 1.5)),
			"09926048af73c1da4110192a130a110a0a747261696e2f6c6f7373150000c03f"},
		{"zero", summary(at(0x41dac173af4860c1), 0, scalar("train/loss", 0)),
			"09c16048af73c1da412a130a110a0a747261696e2f6c6f73731500000000"},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.name, got, tt.want)
		}
	}
	// RFC 3720, appendix B.4: crc32c of 32 bytes of zeros is 0x8a9136aa.
	if got, want := maskedCRC(make([]byte, 32)), bits.RotateLeft32(0x8a9136aa, 17)+0xa282ead8; got != want {
		t.Errorf("masked crc %#x, want %#x", got, want)
	}
}

var entries = []train.LogEntry{
	{Step: 25, Epoch: 0.1, Loss: 1.3501, GradNorm: 0.25, LearningRate: 2e-4},
	{Step: 50, Epoch: 0.2, Loss: 2.0158, GradNorm: 0.5, LearningRate: 2e-4},
	{Step: 50, Epoch: 0.2, Eval: true, Loss: 1.75, Seconds: 2, Rows: 100, Batches: 25},
}

// TestRealTensorBoard writes a run that is killed and goes on, and reads it with
// the tensorboard package (oracle/tools/tb_read.py, which checks every CRC).
func TestRealTensorBoard(t *testing.T) {
	tool := oracle.Dir(t, "tools", "tb_read.py")
	out := t.TempDir()
	dir := RunDir(out, time.Date(2023, 8, 5, 14, 3, 59, 0, time.UTC), "box")
	if want := filepath.Join(out, "runs", "Aug05_14-03-59_box"); dir != want {
		t.Errorf("run folder %s, want %s", dir, want)
	}
	w, err := CreateTensorBoard(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := "{\"lr\": 0.0002, \"name\": \"gründlich\"}"
	if err := w.Text("args", args, 0); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Log(e); err != nil {
			t.Fatal(err)
		}
	}
	// Step 75 is lost with the crash: its checkpoint is of step 50.
	if err := w.Log(train.LogEntry{Step: 75, Loss: 9}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	next, err := CreateTensorBoard(dir)
	if err != nil {
		t.Fatal(err)
	}
	if next.Path() == w.Path() {
		t.Fatalf("two writers share %s", w.Path())
	}
	if err := next.Resume(50); err != nil {
		t.Fatal(err)
	}
	if err := next.Log(train.LogEntry{Step: 75, Epoch: 0.3, Loss: 1.0487, LearningRate: 2e-4}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*TensorBoard{w, next, next} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	var stderr bytes.Buffer
	cmd := exec.Command(oracle.Python(t, "the real TensorBoard"), tool, out)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("tb_read.py: %v\n%s\n%s", err, text, stderr.String())
	}
	var got struct {
		Runs map[string]struct {
			Scalars map[string][]struct {
				Step  int
				Value float64
			}
			Text map[string][][]string
		}
		Files  []struct{ Events int }
		Errors []string
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	run, ok := got.Runs["runs/Aug05_14-03-59_box"]
	if !ok || len(got.Errors) > 0 || len(got.Files) != 2 {
		t.Fatalf("tb_read.py says\n%s", text)
	}
	if s := run.Text["args/text_summary"]; len(s) != 1 || s[0][0] != args {
		t.Errorf("args: %q", s)
	}
	want := map[string]string{
		"train/loss": "[25:1.3501 50:2.0158 75:1.0487]", "train/grad_norm": "[25:0.2500 50:0.5000 75:0.0000]",
		"train/learning_rate": "[25:0.0002 50:0.0002 75:0.0002]", "train/epoch": "[25:0.1000 50:0.2000 50:0.2000 75:0.3000]", // evaluations log it too
		"eval/loss": "[50:1.7500]", "eval/runtime": "[50:2.0000]", "eval/samples_per_second": "[50:50.0000]", "eval/steps_per_second": "[50:12.5000]",
	}
	for tag, w := range want {
		var points []string
		for _, p := range run.Scalars[tag] {
			points = append(points, fmt.Sprintf("%d:%.4f", p.Step, p.Value))
		}
		if g := "[" + strings.Join(points, " ") + "]"; g != w {
			t.Errorf("%s: %s, want %s", tag, g, w)
		}
	}
	if len(run.Scalars) != len(want) {
		t.Errorf("%d curves, want %d", len(run.Scalars), len(want))
	}
}

// TestRecordsWhole reads the framing back without Python, after a write that
// failed half-way.
func TestRecordsWhole(t *testing.T) {
	w, err := CreateTensorBoard(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := w.Scalar("train/loss", int64(i), float64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Scalar("train/loss", 6, 6); err == nil {
		t.Error("a closed file took a record")
	}
	b, err := os.ReadFile(w.Path())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; len(b) > 0; n++ {
		size := binary.LittleEndian.Uint64(b)
		data := b[12 : 12+size]
		if binary.LittleEndian.Uint32(b[8:]) != maskedCRC(b[:8]) || binary.LittleEndian.Uint32(b[12+size:]) != maskedCRC(data) {
			t.Fatalf("record %d has a wrong checksum", n)
		}
		b = b[16+size:]
	}
	if n != 6 {
		t.Errorf("%d records, want 6", n)
	}
}

func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("this system has no /dev/full: %v", err)
	}
	w := &TensorBoard{file: full, now: time.Now}
	if err := w.Scalar("train/loss", 1, 1); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("TensorBoard: %v", err)
	}
	j := &Journal{file: full}
	if err := j.Append(KindStep, 1); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("journal: %v", err)
	}
}

func ExampleTag() {
	fmt.Println(Tag("loss"), Tag("eval_loss"), Tag("learning_rate"))
	// Output: train/loss eval/loss train/learning_rate
}
