package kernelext

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
)

// TestMain lets the test binary stand in for gotune: the kernel starts itself again as the guard, and as
// the engine.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "kernel":
			os.Exit(Main(os.Args[2:]))
		case "engine":
			os.Exit(testEngine())
		}
	}
	status := m.Run()
	for _, d := range builtFolders {
		os.RemoveAll(d)
	}
	os.Exit(status)
}

// client is a Jupyter client of a kernel process: real sockets, real signatures.
type client struct {
	t                          *testing.T
	cmd                        *exec.Cmd
	log                        *logBuffer
	dir, socket                string
	codec                      *codec
	conn                       connection
	session                    string
	shell, control, stdin, sub zmq4.Socket

	mu      sync.Mutex
	inbox   map[string][]*message // by channel
	arrived *sync.Cond
}

// testKernelID is Jupyter's name of a kernel, which is in its connection file's.
const testKernelID = "12345678-1234-4321-8765-123456789abc"

type startOptions struct {
	env     []string // added to the kernel's
	id      string   // of the sockets, "" for one of zmq4's
	command []string // before the kernel's own command line
	plain   bool     // GoNB itself, without this kernel
}

// needGoNB ends the test when there is no GoNB to run: nothing here works without.
func needGoNB(t *testing.T) string {
	t.Helper()
	p, err := findGoNB()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A logBuffer is what a kernel says, read while it may still speak.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startKernel(t *testing.T, o startOptions) *client {
	t.Helper()
	gonb := needGoNB(t)
	dir, err := os.MkdirTemp("", "gt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &client{t: t, dir: dir, log: &logBuffer{}, session: newID(), inbox: map[string][]*message{}, socket: filepath.Join(dir, "engine.sock"),
		conn: connection{Transport: "tcp", IP: "127.0.0.1", Key: newID(), SignatureScheme: "hmac-sha256", KernelName: "gotune"}}
	c.arrived = sync.NewCond(&c.mu)
	c.codec = newCodec(c.conn.Key)
	for _, p := range []*int{&c.conn.ShellPort, &c.conn.ControlPort, &c.conn.StdinPort, &c.conn.IOPubPort, &c.conn.HBPort} {
		*p = freePort(t)
	}
	file := filepath.Join(dir, "kernel-"+testKernelID+".json")
	if err := os.WriteFile(file, encode(c.conn), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append(append([]string{}, o.command...), self, "kernel", "--kernel", file)
	if o.plain {
		argv = append(append([]string{}, o.command...), gonb, "--kernel", file, "--raw_error", "--logtostderr=false", "--log_dir="+dir, "--stderrthreshold=FATAL")
		c.codec.trusted = true
	}
	c.cmd = exec.Command(argv[0], argv[1:]...)
	c.cmd.Dir = dir
	// With the parent's pid, as Jupyter gives it: a kernel ends with a test binary that is killed.
	c.cmd.Env = append(os.Environ(), "GOTUNE_GONB="+gonb, "GOTUNE_SOCKET="+c.socket, "GOTUNE_BIN="+self, fmt.Sprintf("JPY_PARENT_PID=%d", os.Getpid()))
	c.cmd.Env = append(c.cmd.Env, o.env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.WaitDelay = 5 * time.Second
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		endTestEngine(c.socket)
		if t.Failed() {
			t.Logf("the kernel's log:\n%s", c.log)
		}
	})
	c.connect(o.id)
	return c
}

// freePort is a port that nobody listens at, below those that the system gives to connections: another test's
// would take it before the kernel does.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// connect opens the four channels and waits until output arrives.
func (c *client) connect(id string) {
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	options := []zmq4.Option{zmq4.WithLogger(quiet), zmq4.WithDialerRetry(10 * time.Millisecond), zmq4.WithDialerMaxRetries(1000)}
	if id == "" {
		id = newID()
	}
	options = append(options, zmq4.WithID(zmq4.SocketIdentity(id)))
	c.shell, c.control, c.stdin, c.sub = zmq4.NewDealer(ctx, options...), zmq4.NewDealer(ctx, options...), zmq4.NewDealer(ctx, options...), zmq4.NewSub(ctx, options...)
	if err := c.sub.SetOption(zmq4.OptionSubscribe, ""); err != nil {
		c.t.Fatal(err)
	}
	for _, s := range []struct {
		name string
		z    zmq4.Socket
		port int
	}{{"shell", c.shell, c.conn.ShellPort}, {"control", c.control, c.conn.ControlPort}, {"stdin", c.stdin, c.conn.StdinPort}, {"iopub", c.sub, c.conn.IOPubPort}} {
		if err := s.z.Dial(c.conn.endpoint("", s.port)); err != nil {
			c.t.Fatal(err)
		}
		go c.collect(s.name, s.z)
	}
	for end := time.Now().Add(time.Minute); ; {
		m := c.send(c.shell, "kernel_info_request", object{})
		if c.find("iopub", 100*time.Millisecond, func(o *message) bool { return o.parentID() == m.id() }) != nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("no output from the kernel within a minute\n%s", c.log)
		}
	}
}

func (c *client) collect(name string, z zmq4.Socket) {
	for {
		f, err := z.Recv()
		if err != nil {
			return
		}
		m, err := c.codec.read(f.Frames)
		if err != nil {
			c.t.Errorf("the kernel sent a bad message on %s: %v", name, err)
			continue
		}
		c.mu.Lock()
		c.inbox[name] = append(c.inbox[name], m)
		c.arrived.Broadcast()
		c.mu.Unlock()
	}
}

// send sends a request with the client's signature.
func (c *client) send(z zmq4.Socket, kind string, content any) *message {
	m := newMessage(c.session, kind, nil, content)
	c.raw(z, c.codec.frames(m))
	return m
}

func (c *client) raw(z zmq4.Socket, frames [][]byte) {
	if err := z.SendMulti(zmq4.NewMsgFrom(frames...)); err != nil {
		c.t.Fatal(err)
	}
}

// find waits for a message on a channel that ok accepts, and returns nil when none comes in time.
func (c *client) find(channel string, within time.Duration, ok func(*message) bool) *message {
	end := time.Now().Add(within)
	timer := time.AfterFunc(within+5*time.Millisecond, c.arrived.Broadcast)
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; {
		for ; n < len(c.inbox[channel]); n++ {
			if ok(c.inbox[channel][n]) {
				return c.inbox[channel][n]
			}
		}
		if !time.Now().Before(end) {
			return nil
		}
		c.arrived.Wait()
	}
}

// await is find for what must come.
func (c *client) await(channel, what string, within time.Duration, ok func(*message) bool) *message {
	c.t.Helper()
	m := c.find(channel, within, ok)
	if m == nil {
		c.t.Fatalf("no %s on %s within %v", what, channel, within)
	}
	return m
}

// reply waits for the answer to m.
func (c *client) reply(channel string, m *message, within time.Duration) object {
	c.t.Helper()
	r := c.await(channel, "answer to "+m.kind(), within, func(o *message) bool { return o.parentID() == m.id() })
	return contentOf(c.t, r)
}

func contentOf(t *testing.T, m *message) object {
	t.Helper()
	var o object
	if err := json.Unmarshal(m.content, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// ran is how a cell went.
type ran struct {
	reply   object
	outputs []*message // on iopub, with statuses
	text    map[string]string
}

func (r ran) kinds() string {
	var k []string
	for _, m := range r.outputs {
		kind := m.kind()
		if kind == "status" {
			var s struct {
				State string `json:"execution_state"`
			}
			_ = m.decode(&s)
			kind = s.State
		}
		if len(k) == 0 || k[len(k)-1] != kind {
			k = append(k, kind)
		}
	}
	return strings.Join(k, " ")
}

// execute sends a cell with the usual flags, changed by extra.
func (c *client) execute(code string, extra object) *message {
	o := object{"code": code, "silent": false, "store_history": true, "user_expressions": object{}, "allow_stdin": true, "stop_on_error": true}
	for k, v := range extra {
		o[k] = v
	}
	return c.send(c.shell, "execute_request", o)
}

// wait waits until a cell is over: its reply and its idle.
func (c *client) wait(m *message) ran {
	c.t.Helper()
	r := ran{reply: c.reply("shell", m, 60*time.Second), text: map[string]string{}}
	c.await("iopub", "idle of "+m.id(), 10*time.Second, func(o *message) bool {
		return o.parentID() == m.id() && o.kind() == "status" && strings.Contains(string(o.content), `"idle"`)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.inbox["iopub"] {
		if o.parentID() != m.id() {
			continue
		}
		r.outputs = append(r.outputs, o)
		var s struct{ Name, Text string }
		if o.kind() == "stream" && o.decode(&s) == nil {
			r.text[s.Name] += s.Text
		}
	}
	return r
}

// run executes a cell and wants its status to be ok.
func (c *client) run(code string) ran {
	c.t.Helper()
	r := c.wait(c.execute(code, nil))
	if r.reply["status"] != "ok" {
		c.t.Fatalf("cell %q: %v", code, r.reply)
	}
	return r
}

// mark runs a cell that leaves a file, and returns its path.
func (c *client) markCode(name string) (code, path string) {
	path = filepath.Join(c.dir, name)
	return fmt.Sprintf("!touch %s", path), path
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }
