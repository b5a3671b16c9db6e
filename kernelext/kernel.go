package kernelext

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// kernel is the running kernel.
type kernel struct {
	*front
	codec   *codec
	session string
	log     *log.Logger
	env     environment
	engine  *engine
	started time.Time

	gonb      *gonb // nil when GoNB cannot be started: each cell then fails with gonbErr
	gonbErr   error
	wasmTried bool          // only runCells looks at it
	ready     chan struct{} // closed when GoNB answers and its output is seen to arrive

	queue chan *cell

	mu         sync.Mutex
	relayed    map[string]*request      // by msg_id: what GoNB is working on
	own        map[string]chan *message // by msg_id: the kernel's own requests to GoNB
	cell       *cell                    // the one that runs
	beside     map[*cell]struct{}       // those of live magics that run beside it
	count      int                      // the execution counter, kept equal to GoNB's by catchUp
	ahead      int                      // cells that GoNB has not counted yet
	arrived    uint64                   // execute requests so far
	queuedAt   time.Time                // when the last of them came that queued
	interrupts int                      // under way
	calm       *sync.Cond               // with mu: an interrupt is over
	abortTo    uint64                   // those up to this one are answered "aborted"
	input      bool                     // GoNB waits for an input_reply
	waiting    *request                 // a completion or inspection held back until GoNB's gopls is ready
	history    history

	boardsMu sync.Mutex
	boards   map[string]*os.File // locks of the TensorBoards shown, by name

	stopping atomic.Bool   // a shutdown was asked for
	quit     chan struct{} // closed to end the kernel
	once     sync.Once
	exit     int // the process's exit status
}

// request is a message from a client and the channel that its answer goes to.
type request struct {
	*message
	channel *socket
}

// run is "gotune kernel --kernel FILE": it serves the connection file until it is told to shut down, its
// parent ends, or GoNB does.
func run(file string) int {
	logger := log.New(os.Stderr, "gotune kernel: ", log.Ltime)
	c, err := readConnection(file)
	if err != nil {
		logger.Print(err)
		return 1
	}
	k := &kernel{codec: newCodec(c.Key), session: newID(), log: logger, started: time.Now(), ready: make(chan struct{}),
		queue: make(chan *cell, 10000), relayed: map[string]*request{}, own: map[string]chan *message{}, beside: map[*cell]struct{}{}, boards: map[string]*os.File{}, quit: make(chan struct{})}
	k.calm = sync.NewCond(&k.mu)
	if k.front, err = c.listen(context.Background(), k.welcome); err != nil {
		logger.Print(err)
		return 1
	}
	k.env = readEnvironment()
	k.engine = newEngine(k.env)
	k.watch()
	go k.beat()
	for _, s := range []*socket{k.shell, k.control, k.stdin} {
		go k.receive(s)
	}
	go k.start(filepath.Base(file))
	k.publish("status", nil, object{"execution_state": "starting"})
	<-k.quit
	if k.gonb != nil {
		k.gonb.end()
	}
	return k.exit
}

// start starts GoNB and, when it answers, lets cells through.
func (k *kernel) start(name string) {
	defer func() { go k.runCells() }()
	binary, err := findGoNB()
	if err == nil {
		var env []string
		if env, err = k.env.forGoNB(); err == nil {
			k.gonb, err = startGoNB(binary, name, env)
		}
	}
	if err != nil {
		k.gonb, k.gonbErr = nil, err
		k.log.Print(err)
		close(k.ready)
		return
	}
	go k.fromGoNB(k.gonb.shell, k.onReply)
	go k.fromGoNB(k.gonb.back, k.onOutput)
	go k.fromGoNB(k.gonb.stdin, k.onInput)
	go k.fromGoNB(k.gonb.control, func(*message) {})
	go func() {
		<-k.gonb.gone
		select {
		case <-k.quit:
		default:
			k.log.Print("GoNB ended unexpectedly: the kernel ends with it, and Jupyter starts a new one")
			k.stop(1)
		}
	}()
	// A subscription takes effect some time after it is made: ask until a status is seen to come through.
	for {
		m := newMessage(k.session, "kernel_info_request", nil, object{})
		if err := k.gonb.send(k.gonb.shell, m); err != nil {
			k.log.Print(err)
		}
		select {
		case <-k.ready:
			go k.engine.ensure(context.Background(), k.log)
			return
		case <-k.quit:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the kernel with an exit status. It may be called more than once.
func (k *kernel) stop(status int) {
	k.once.Do(func() { k.exit = status; close(k.quit) })
}

// watch ends the kernel on SIGTERM, SIGHUP and the death of Jupyter; SIGINT interrupts the cell.
func (k *kernel) watch() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range signals {
			if s == os.Interrupt {
				k.interrupt()
				continue
			}
			k.stop(0)
		}
	}()
	parent := os.Getppid()
	if p, err := strconv.Atoi(os.Getenv("JPY_PARENT_PID")); err != nil || p != parent {
		return // started by something that may end before us, such as a shell
	}
	go func() {
		for os.Getppid() == parent {
			time.Sleep(500 * time.Millisecond)
		}
		k.log.Print("Jupyter is gone: the kernel ends too")
		k.stop(0)
	}()
}

// beat echoes heartbeats.
func (k *kernel) beat() {
	for {
		m, err := k.hb.Recv()
		if err != nil {
			return
		}
		if err := k.hb.send(m.Frames); err != nil {
			k.log.Print(err)
		}
	}
}

// receive reads one of the clients' channels.
func (k *kernel) receive(s *socket) {
	for {
		z, err := s.Recv()
		if err != nil {
			return
		}
		m, err := k.codec.read(z.Frames)
		if err != nil {
			k.log.Printf("dropped a message on the %s channel: %v", s.name, err)
			continue
		}
		k.handle(&request{message: m, channel: s})
	}
}

// fromGoNB reads one of GoNB's channels.
func (k *kernel) fromGoNB(s *socket, handle func(*message)) {
	for {
		z, err := s.Recv()
		if err != nil {
			return // GoNB is gone; the guard's end says so
		}
		m, err := k.gonb.codec.read(z.Frames)
		if err != nil {
			k.log.Printf("dropped a message on %s channel: %v", s.name, err)
			continue
		}
		handle(m)
	}
}

// publish sends a message on iopub. Its topic is kernel.SESSION.TYPE; clients subscribe to everything.
func (k *kernel) publish(kind string, parent object, content any) {
	k.relay(newMessage(k.session, kind, parent, content))
}

// relay sends m on iopub as it is.
func (k *kernel) relay(m *message) {
	m.identities = [][]byte{fmt.Appendf(nil, "kernel.%s.%s", k.session, m.kind())}
	k.transmit(k.iopub, m)
}

func (k *kernel) transmit(s *socket, m *message) {
	if err := s.send(k.codec.frames(m)); err != nil {
		k.log.Print(err)
	}
}

// answer sends the reply to r on the channel that it came from.
func (k *kernel) answer(r *request, content any) {
	kind := r.kind()
	if base, ok := strings.CutSuffix(kind, "_request"); ok {
		kind = base + "_reply"
	}
	m := newMessage(k.session, kind, r.header, content)
	m.identities = r.identities
	k.transmit(r.channel, m)
}

// busy and idle frame the handling of a request.
func (k *kernel) busy(r *request) { k.publish("status", r.header, object{"execution_state": "busy"}) }
func (k *kernel) idle(r *request) { k.publish("status", r.header, object{"execution_state": "idle"}) }

// reply answers r at once, framed by busy and idle.
func (k *kernel) reply(r *request, content any) {
	k.busy(r)
	k.answer(r, content)
	k.idle(r)
}

// toGoNB relays r, once GoNB is there.
func (k *kernel) toGoNB(r *request, s func(*gonb) *socket) {
	k.mu.Lock()
	k.relayed[r.id()] = r
	k.mu.Unlock()
	<-k.ready
	if k.gonb == nil {
		return
	}
	if err := k.gonb.send(s(k.gonb), r.message); err != nil {
		k.log.Print(err)
	}
}

func shellOf(g *gonb) *socket { return g.shell }
