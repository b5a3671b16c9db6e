package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// mutate damages a file as a bad disk, a cut download or an attacker would.
func mutate(rng *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + rng.IntN(4) {
		if len(b) == 0 {
			return b
		}
		// Half of the damage goes to the last tenth, where formats keep their sizes.
		i := rng.IntN(len(b))
		if rng.IntN(2) == 0 {
			i = len(b) - 1 - rng.IntN(1+len(b)/10)
		}
		switch rng.IntN(6) {
		case 0:
			b[i] ^= 1 << rng.IntN(8)
		case 1:
			b[i] = byte(rng.Uint32())
		case 2:
			b[i] = 0xff
		case 3: // a huge varint
			copy(b[i:], []byte{0xff, 0xff, 0xff, 0xff, 0x07})
		case 4:
			b = b[:i]
		case 5:
			n := min(rng.IntN(64), len(b)-i)
			b = append(b[:i:i], b[i+n:]...)
		}
	}
	return b
}

const attackEnv, attackSeed = "GOTUNE_ATTACK_FILE", "GOTUNE_ATTACK_ROUNDS"

// TestMain lets this program be its own victim: a child with little memory that
// reads damaged copies of one file.
func TestMain(m *testing.M) {
	if path := os.Getenv(attackEnv); path != "" {
		os.Exit(victim(path))
	}
	os.Exit(m.Run())
}

// victim reads damaged copies of a file. It prints the number of each before it
// starts, so that the parent knows the one that ended the process.
func victim(path string) int {
	limit := uint64(3 << 30) // address space; the runtime itself reserves some
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		fmt.Println("setrlimit:", err)
		return 1
	}
	good, err := os.ReadFile(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	rounds, _ := strconv.Atoi(os.Getenv(attackSeed))
	dir, err := os.MkdirTemp("", "attack")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	p := filepath.Join(dir, filepath.Base(path))
	refused := 0
	for i := range rounds {
		fmt.Println("round", i)
		rng := rand.New(rand.NewPCG(uint64(i), uint64(len(good))))
		if err := os.WriteFile(p, mutate(rng, good), 0o644); err != nil {
			fmt.Println(err)
			return 1
		}
		_, err := Open(context.Background(), Spec{Source: p, NoText: true, MaxBytes: 1 << 28}, nil)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			fmt.Printf("not an Error: %v\n", err)
			return 1
		}
		if err != nil {
			refused++
		}
	}
	fmt.Println("refused", refused)
	return 0
}

// TestDamagedFiles reads damaged copies of every golden file in a process with
// little memory: each is an error or a data set, and the process lives.
func TestDamagedFiles(t *testing.T) {
	var files []string
	for _, dir := range []string{oracle.Dir(t, "dataset"), filepath.Join(oracle.Dir(t, "dataset"), "saved_to_disk"), "testdata"} {
		for _, suffix := range []string{"*.parquet", "*.arrow", "*.csv", "nested.jsonl", "data_array.json"} {
			m, err := filepath.Glob(filepath.Join(dir, suffix))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, m...)
		}
	}
	if len(files) < 15 {
		t.Fatal(files)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			rounds := 100
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), attackEnv+"="+f, attackSeed+"="+strconv.Itoa(rounds), "GOMEMLIMIT=1GiB")
			out, err := cmd.CombinedOutput()
			if err != nil {
				text := string(out)
				if i := strings.Index(text, "fatal error"); i >= 0 {
					text = text[max(0, i-200):min(len(text), i+3000)]
				}
				t.Fatalf("%v\n%s", err, text)
			}
			last := string(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:])
			t.Log(strings.TrimSpace(last), "of", rounds)
			if strings.TrimSpace(last) == "refused 0" {
				t.Error("no damage was noticed")
			}
		})
	}
}
