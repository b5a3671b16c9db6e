package smi

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What nvidia-smi prints for our two queries.
var recorded = []struct {
	name, gpus, users string
	seen              []int // processes that are seen from here
	want              []GPU
	held              int64  // of the first, for process 500
	holders           string // a part, "" for none
}{
	{
		name:  "one GPU, nobody on it",
		gpus:  "GPU-5b0fd4cb-0e5e-5a0c-9c2f-1c1f9f5a0d11, NVIDIA H200, 143771, 0, 28, 76.41, 700.00, 0\n",
		users: "",
		want:  []GPU{{UUID: "GPU-5b0fd4cb-0e5e-5a0c-9c2f-1c1f9f5a0d11", Name: "NVIDIA H200", Total: 143771 << 20, Degrees: 28, Watts: 76.41, MaxWatts: 700}},
	},
	{
		name:  "a T4 in a virtual machine: power is not known",
		gpus:  "GPU-aa, Tesla T4, 15360, 105, 44, [N/A], [N/A], 3\n",
		users: "GPU-aa, 500, /root/.cache/gotune/bin/gotune, 102\n",
		seen:  []int{500},
		want: []GPU{{UUID: "GPU-aa", Name: "Tesla T4", Total: 15360 << 20, Used: 105 << 20, Degrees: 44, Watts: -1, MaxWatts: -1, Busy: 3,
			Users: []User{{PID: 500, Name: "/root/.cache/gotune/bin/gotune", Bytes: 102 << 20}}}},
	},
	{
		name: "two GPUs, one full; a name with a comma",
		gpus: "GPU-aa, NVIDIA A100-SXM4-80GB, 81920, 75000, 55, 300.10, 400.00, 97\nGPU-bb, NVIDIA A100-SXM4-80GB, 81920, 4, 30, 60.00, 400.00, 0\n",
		users: "GPU-aa, 500, gotune, 5000\nGPU-aa, 77, python, 69000\n" +
			"GPU-aa, 78, \"a, b\", 900\n",
		seen: []int{500, 77, 78},
		want: []GPU{{UUID: "GPU-aa", Name: "NVIDIA A100-SXM4-80GB", Total: 81920 << 20, Used: 75000 << 20, Degrees: 55, Watts: 300.1, MaxWatts: 400, Busy: 97,
			Users: []User{{PID: 500, Name: "gotune", Bytes: 5000 << 20}, {PID: 77, Name: "python", Bytes: 69000 << 20}, {PID: 78, Name: "a, b", Bytes: 900 << 20}}},
			{UUID: "GPU-bb", Name: "NVIDIA A100-SXM4-80GB", Total: 81920 << 20, Used: 4 << 20, Degrees: 30, Watts: 60, MaxWatts: 400}},
		held:    69900 << 20,
		holders: "other programs hold 68.3 GiB of the 80.0 GiB of NVIDIA A100-SXM4-80GB (python, process 77: 67.4 GiB; a, b, process 78: 900.0 MiB)",
	},
	{
		name:  "parts of a GPU (MIG): no load is known, the process is one of a part",
		gpus:  "GPU-aa, NVIDIA A100-PCIE-40GB, 40960, 20000, 35, 80.00, 250.00, [N/A]\n",
		users: "MIG-2f9e7c5a-0000-5000-8000-000000000001, 77, python, 19968\n",
		seen:  []int{77},
		want: []GPU{{UUID: "GPU-aa", Name: "NVIDIA A100-PCIE-40GB", Total: 40960 << 20, Used: 20000 << 20, Degrees: 35, Watts: 80, MaxWatts: 250, Busy: -1,
			Users: []User{{PID: 77, Name: "python", Bytes: 19968 << 20}}}},
		held:    19968 << 20,
		holders: "python, process 77: 19.5 GiB",
	},
	{
		name:  "in a container: processes of the machine by their numbers outside, without names; one may be our own",
		gpus:  "GPU-aa, NVIDIA L4, 23034, 21000, 60, 70.00, 72.00, 100\n",
		users: "GPU-aa, 910001, [Not Found], 20900\nGPU-aa, 910002, [Insufficient Permissions], [N/A]\n",
		want: []GPU{{UUID: "GPU-aa", Name: "NVIDIA L4", Total: 23034 << 20, Used: 21000 << 20, Degrees: 60, Watts: 70, MaxWatts: 72, Busy: 100,
			Users: []User{{PID: 910001, Name: "[Not Found]", Bytes: 20900 << 20, Hidden: true}, {PID: 910002, Name: "[Insufficient Permissions]", Bytes: -1, Hidden: true}}}},
	},
	{
		name:  "in a container where our own process is seen",
		gpus:  "GPU-aa, NVIDIA L4, 23034, 21000, 60, 70.00, 72.00, 100\n",
		users: "GPU-aa, 910001, [Not Found], 20900\nGPU-aa, 500, gotune, 100\n",
		seen:  []int{500},
		want: []GPU{{UUID: "GPU-aa", Name: "NVIDIA L4", Total: 23034 << 20, Used: 21000 << 20, Degrees: 60, Watts: 70, MaxWatts: 72, Busy: 100,
			Users: []User{{PID: 910001, Name: "[Not Found]", Bytes: 20900 << 20, Hidden: true}, {PID: 500, Name: "gotune", Bytes: 100 << 20}}}},
		held:    20900 << 20,
		holders: "[Not Found], process 910001",
	},
	{
		name: "memory shared with the CPU",
		gpus: "GPU-aa, NVIDIA GB10, [N/A], [N/A], 41, 10.32, [N/A], 0\n",
		want: []GPU{{UUID: "GPU-aa", Name: "NVIDIA GB10", Total: -1, Used: -1, Degrees: 41, Watts: 10.32, MaxWatts: -1}},
	},
	{name: "no GPU", gpus: "No devices were found\n"},
	{name: "no driver", gpus: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n"},
	{name: "a lost GPU", gpus: "Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU\n"},
}

func TestParse(t *testing.T) {
	for _, tt := range recorded {
		got := Parse(tt.gpus, tt.users, func(pid int) bool {
			for _, p := range tt.seen {
				if p == pid {
					return true
				}
			}
			return false
		})
		if len(got) != len(tt.want) {
			t.Errorf("%s: %d GPUs, want %d", tt.name, len(got), len(tt.want))
			continue
		}
		for i := range got {
			if g, w := got[i], tt.want[i]; !equal(g, w) {
				t.Errorf("%s: %+v, want %+v", tt.name, g, w)
			}
		}
		if len(got) > 0 && got[0].Held(500) != tt.held {
			t.Errorf("%s: others hold %d, want %d", tt.name, got[0].Held(500), tt.held)
		}
		if h := Holders(got, 500); (h == "") != (tt.holders == "") || !strings.Contains(h, tt.holders) {
			t.Errorf("%s: holders %q, want %q", tt.name, h, tt.holders)
		}
	}
}

func equal(a, b GPU) bool {
	if len(a.Users) != len(b.Users) {
		return false
	}
	for i := range a.Users {
		if a.Users[i] != b.Users[i] {
			return false
		}
	}
	return a.UUID == b.UUID && a.Name == b.Name && a.Total == b.Total && a.Used == b.Used && a.Degrees == b.Degrees && a.Watts == b.Watts &&
		a.MaxWatts == b.MaxWatts && a.Busy == b.Busy
}

// Read runs the program of that name, and waits for it so long only.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	script := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script(`case $1 in
--query-gpu=uuid,*) echo "GPU-aa, Tesla T4, 15360, 105, 44, 30.00, 70.00, 3";;
--query-compute-apps=*) echo "GPU-aa, 1, init, 102";;
esac
`)
	g := Read(context.Background())
	if len(g) != 1 || len(g[0].Users) != 1 || g[0].Users[0].Hidden {
		t.Errorf("Read: %+v, want one GPU with one user that is seen", g)
	}
	script("exit 9\n")
	if g := Read(context.Background()); g != nil {
		t.Errorf("Read of a program that fails: %+v", g)
	}
	script("exec sleep 100\n")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if g := Read(ctx); g != nil || time.Since(began) > 2*time.Second {
		t.Errorf("Read of a program that hangs: %+v after %v", g, time.Since(began))
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range recorded {
		f.Add(r.gpus, r.users)
	}
	f.Fuzz(func(t *testing.T, gpus, users string) {
		for _, g := range Parse(gpus, users, func(pid int) bool { return pid%2 == 0 }) {
			if g.Total < -1 || g.Held(0) < 0 {
				t.Errorf("%+v", g)
			}
		}
	})
}
