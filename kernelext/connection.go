package kernelext

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/go-zeromq/zmq4"
)

// connection is Jupyter's connection file.
type connection struct {
	Transport       string `json:"transport"` // "tcp" or "ipc"
	IP              string `json:"ip"`        // for ipc: the path that "-<port>" is appended to
	Key             string `json:"key"`
	SignatureScheme string `json:"signature_scheme"`
	ShellPort       int    `json:"shell_port"`
	ControlPort     int    `json:"control_port"`
	StdinPort       int    `json:"stdin_port"`
	IOPubPort       int    `json:"iopub_port"`
	HBPort          int    `json:"hb_port"`
	KernelName      string `json:"kernel_name"`
}

// readConnection reads and checks a connection file.
func readConnection(path string) (*connection, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("connection file: %w", err)
	}
	c := &connection{Transport: "tcp", IP: "127.0.0.1", SignatureScheme: "hmac-sha256"}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("connection file %s: %w", path, err)
	}
	if c.Transport != "tcp" && c.Transport != "ipc" {
		return nil, fmt.Errorf("connection file %s: transport %q, want tcp or ipc", path, c.Transport)
	}
	if c.SignatureScheme != "hmac-sha256" && c.Key != "" {
		return nil, fmt.Errorf("connection file %s: signature scheme %q, want hmac-sha256", path, c.SignatureScheme)
	}
	return c, nil
}

// endpoint is the ZeroMQ address of a port, under the named transport prefix ("safe" or "").
func (c *connection) endpoint(prefix string, port int) string {
	if c.Transport == "ipc" {
		return fmt.Sprintf("%sipc://%s-%d", prefix, c.IP, port)
	}
	return fmt.Sprintf("%stcp://%s:%d", prefix, c.IP, port)
}

// socket is a ZeroMQ socket whose messages leave in the order of the calls to send.
type socket struct {
	zmq4.Socket
	name string
	mu   sync.Mutex
}

func (s *socket) send(frames [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.SendMulti(zmq4.NewMsgFrom(frames...)); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

// front is the five sockets that clients connect to.
type front struct{ shell, control, stdin, iopub, hb *socket }

// listen opens the five sockets of a connection file. Subscribers to iopub are greeted with what welcome says.
func (c *connection) listen(ctx context.Context, welcome welcomeFunc) (*front, error) {
	f := &front{}
	for _, s := range []struct {
		at   **socket
		name string
		port int
	}{{&f.shell, "shell", c.ShellPort}, {&f.control, "control", c.ControlPort}, {&f.stdin, "stdin", c.StdinPort},
		{&f.iopub, "iopub", c.IOPubPort}, {&f.hb, "heartbeat", c.HBPort}} {
		z := zmq4.NewRouter(ctx, zmq4.WithLogger(quiet)) // for the heartbeat too: a ROUTER echoes with no state to get stuck in
		if s.name == "iopub" {
			z = zmq4.NewPub(withWelcome(ctx, welcome), zmq4.WithLogger(quiet))
		}
		if err := z.Listen(c.endpoint("safe", s.port)); err != nil {
			return nil, fmt.Errorf("listen on the %s channel, %s: %w", s.name, c.endpoint("", s.port), err)
		}
		*s.at = &socket{Socket: z, name: s.name}
	}
	return f, nil
}
