package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// peer is the other program: it reads a request a line and answers each with a
// line of JSON.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	log bytes.Buffer // what it says beside its answers
}

// passed is what the peer reports of a pass over the batches.
type passed struct {
	Wall, CPU float64 // seconds
	Loss      float64 // of the first batch
	Name      string  // versions and settings
}

func startPeer(ctx context.Context, python, script string, args ...string) (*peer, error) {
	p := &peer{cmd: exec.CommandContext(ctx, python, append([]string{script}, args...)...)}
	p.cmd.Stderr = &p.log
	if busy() {
		// Threads that spin while they wait for one that has no core lose most of a
		// busy machine's time; on an idle one spinning is the faster way.
		p.cmd.Env = append(os.Environ(), "OMP_WAIT_POLICY=passive")
		fmt.Println("  the machine is busy with other work: the peer's threads sleep while they wait")
	}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the peer: %w: scripts/setup --tests makes its Python environment", err)
	}
	return p, nil
}

// ask sends a request and waits for its answer.
func (p *peer) ask(request string) (a passed, err error) {
	if _, err := fmt.Fprintln(p.in, request); err != nil {
		return a, fmt.Errorf("ask the peer to %s: %w", request, err)
	}
	if !p.out.Scan() {
		p.end()
		return a, fmt.Errorf("the peer ended instead of answering %q:\n%s", request, p.log.String())
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("the peer answered %q to %q: %w", p.out.Text(), request, err)
	}
	return a, nil
}

func (p *peer) usage(request string) (usage, passed, error) {
	a, err := p.ask(request)
	return usage{time.Duration(a.Wall * 1e9), time.Duration(a.CPU * 1e9)}, a, err
}

func (p *peer) end() {
	p.in.Close()
	_ = p.cmd.Wait() // it has said all it had to say
}
