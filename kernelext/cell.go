package kernelext

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// cell is one execute request.
type cell struct {
	*request
	seq                                  uint64
	source                               string // as the user wrote it
	silent, store, allowStdin, stopOnErr bool
	expressions                          map[string]string
	count                                int
	payload                              []object // of the reply: a pager's text
	out                                  *outputs

	ctx    context.Context // ends when the cell is interrupted
	cancel context.CancelFunc
	done   chan struct{} // closed when GoNB has replied and is idle

	mu          sync.Mutex
	interrupted bool
	failure     *cellError // overrides what GoNB says
	reply       json.RawMessage
	gonbIdle    bool
}

// onExecute queues a cell.
func (k *kernel) onExecute(r *request) {
	q := struct {
		Code        *string           `json:"code"`
		Silent      bool              `json:"silent"`
		Store       *bool             `json:"store_history"`
		AllowStdin  *bool             `json:"allow_stdin"`
		StopOnError *bool             `json:"stop_on_error"`
		Expressions map[string]string `json:"user_expressions"`
	}{}
	if err := r.decode(&q); err != nil || q.Code == nil {
		k.badRequest(r, "code is not a string, or a flag is not a boolean")
		return
	}
	or := func(b *bool) bool { return b == nil || *b }
	c := k.newCell(r)
	c.source, c.silent, c.store, c.allowStdin = *q.Code, q.Silent, or(q.Store) && !q.Silent, or(q.AllowStdin)
	c.stopOnErr, c.expressions = or(q.StopOnError), q.Expressions
	k.mu.Lock()
	k.arrived++
	c.seq = k.arrived
	turn := k.takesTurn(c, time.Now())
	k.mu.Unlock()
	if !turn {
		go k.runBeside(c)
		return
	}
	select {
	case k.queue <- c:
	default:
		k.reply(r, errorReply("QueueFull", "10000 cells wait already", nil))
	}
}

func (k *kernel) newCell(r *request) *cell {
	c := &cell{request: r, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.out = &outputs{kernel: k, cell: c}
	return c
}

// runCells gives GoNB one cell at a time.
func (k *kernel) runCells() {
	<-k.ready
	for {
		select {
		case c := <-k.queue:
			k.runCell(c)
		case <-k.quit:
			return
		}
	}
}

func (k *kernel) runCell(c *cell) {
	defer c.cancel()
	k.mu.Lock()
	for k.interrupts > 0 {
		k.calm.Wait()
	}
	k.mu.Unlock()
	k.catchUp()
	if c.seq <= k.abortTo {
		k.cell = nil
		count := k.count
		k.mu.Unlock()
		k.reply(c.request, object{"status": "aborted", "execution_count": count})
		return
	}
	if c.store {
		k.count++
	}
	c.count = k.count
	k.cell = c
	k.mu.Unlock()

	k.begin(c)
	k.evaluate(c)
	k.finish(c)
	k.idle(c.request)
}

// begin tells the clients that c runs.
func (k *kernel) begin(c *cell) {
	k.busy(c.request)
	if !c.silent {
		k.publish("execute_input", c.header, object{"code": c.source, "execution_count": c.count})
	}
}

// evaluate runs the cell: the kernel's own magics here, the rest by GoNB. GoNB is given an empty cell when
// there is no rest, since it keeps the execution counter.
func (k *kernel) evaluate(c *cell) {
	if k.gonb == nil {
		c.fail(&cellError{"GoNBError", k.gonbErr.Error(), nil})
		return
	}
	if name := askedName(c.source); name != "" {
		if err := k.page(c, name); err != nil {
			c.fail(magicError("help on "+name, 1, err))
		}
		k.toCell(c, "")
		return
	}
	code := k.runMagics(c)
	if usesWasm(code) {
		k.prepareWasm(c)
	}
	k.toCell(c, code)
}

// runMagics runs the kernel's own magics of a cell and returns the rest of it, none if one failed.
func (k *kernel) runMagics(c *cell) (code string) {
	magics, code := splitMagics(c.source)
	for i, m := range magics {
		result, err := k.magic(c.ctx, m)
		if err != nil {
			c.fail(magicError(m.String(), m.line, err))
			return ""
		}
		c.out.result(result, code == "" && i == len(magics)-1)
	}
	return code
}

// toCell has GoNB run code as the cell c, and waits for its end.
func (k *kernel) toCell(c *cell, code string) {
	c.mu.Lock()
	if c.interrupted {
		code = ""
	}
	c.mu.Unlock()
	m := *c.message
	m.content = encode(object{"code": code, "silent": c.silent, "store_history": c.store, "allow_stdin": c.allowStdin,
		"stop_on_error": c.stopOnErr, "user_expressions": object{}})
	k.mu.Lock()
	k.relayed[c.id()] = c.request
	k.mu.Unlock()
	if err := k.gonb.send(k.gonb.shell, &m); err != nil {
		k.log.Print(err)
	}
	select {
	case <-c.done:
	case <-k.gonb.gone:
		c.fail(&cellError{"GoNBError", "GoNB ended while it ran this cell; Jupyter starts a new kernel", nil})
	}
	k.mu.Lock()
	delete(k.relayed, c.id())
	k.mu.Unlock()
}

// finish sends the cell's last output and its reply, and decides what becomes of the cells behind it.
func (k *kernel) finish(c *cell) {
	failed := c.out.finish()
	k.mu.Lock()
	k.cell, k.input = nil, false
	if c.store {
		k.history.add(c.count, c.source)
	}
	if failed != nil && c.stopOnErr {
		k.abortTo = k.arrived // all that came before the client can know of the error, nothing later
	}
	k.mu.Unlock()
	k.conclude(c, failed)
}

// conclude sends the cell's error and its reply.
func (k *kernel) conclude(c *cell, failed *cellError) {
	var content object
	if failed != nil {
		content = errorReply(failed.ename, failed.evalue, failed.traceback)
		if !c.silent {
			k.publish("error", c.header, object{"ename": failed.ename, "evalue": failed.evalue, "traceback": content["traceback"]})
		}
	} else {
		content = object{"status": "ok", "user_expressions": unsupported(c.expressions), "payload": append([]object{}, c.payload...)}
	}
	content["execution_count"] = c.count
	k.answer(c.request, content)
}

// unsupported answers each user expression: a Go cell keeps no values to evaluate.
func unsupported(expressions map[string]string) object {
	out := object{}
	for name := range expressions {
		out[name] = errorReply("NotSupported", "a Go cell keeps no values after it ends", nil)
	}
	return out
}

// fail makes the cell end with e, whatever GoNB says. The first failure counts.
func (c *cell) fail(e *cellError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure == nil {
		c.failure = e
	}
}

// replied takes GoNB's execute_reply.
func (c *cell) replied(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reply == nil {
		c.reply = m.content
		c.check()
	}
}

// idled notes that GoNB is done with the cell.
func (c *cell) idled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gonbIdle {
		c.gonbIdle = true
		c.check()
	}
}

// check closes done once GoNB's reply and its idle were both seen.
func (c *cell) check() {
	if c.reply != nil && c.gonbIdle {
		close(c.done)
	}
}

// onOutput handles what GoNB publishes.
func (k *kernel) onOutput(m *message) {
	select {
	case <-k.ready:
	default:
		close(k.ready) // the subscription is live
	}
	parent := m.parentID()
	k.mu.Lock()
	c := k.cell
	if c != nil && c.id() != parent {
		c = nil
	}
	k.mu.Unlock()
	if c == nil {
		if s, _ := m.parent["session"].(string); s != k.session { // not of the kernel's own probes
			k.relay(m)
		}
		return
	}
	var state struct {
		State string `json:"execution_state"`
	}
	switch m.kind() {
	case "status":
		if m.decode(&state) == nil && state.State == "idle" {
			c.idled()
		}
	case "execute_input", "error": // sent by the kernel itself
	default:
		c.out.add(m)
	}
}
