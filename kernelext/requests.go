package kernelext

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"
)

// gonbComm is the only comm target that GoNB serves: its widgets.
const gonbComm = "gonb_comm"

// handle is called for each valid message of a client, in the order of its channel. It does not block.
func (k *kernel) handle(r *request) {
	if r.channel == k.stdin {
		k.onInputReply(r)
		return
	}
	switch r.kind() {
	case "kernel_info_request":
		k.reply(r, k.kernelInfo())
	case "execute_request":
		k.onExecute(r)
	case "complete_request", "inspect_request":
		k.onTab(r)
	case "is_complete_request":
		k.onIsComplete(r)
	case "history_request":
		k.onHistory(r)
	case "comm_info_request":
		k.reply(r, object{"status": "ok", "comms": object{}})
	case "comm_open", "comm_msg", "comm_close":
		k.onComm(r)
	case "interrupt_request":
		k.interrupt()
		k.reply(r, object{"status": "ok"})
	case "shutdown_request":
		k.onShutdown(r)
	default:
		k.log.Printf("dropped a message of unknown type %q on the %s channel", r.kind(), r.channel.name)
	}
}

// badRequest answers a request whose content cannot be used.
func (k *kernel) badRequest(r *request, what string) {
	k.reply(r, errorReply("BadRequest", r.kind()+": "+what, nil))
}

// errorReply is the content of an error reply.
func errorReply(ename, evalue string, traceback []string) object {
	if traceback == nil {
		traceback = []string{}
	}
	return object{"status": "error", "ename": ename, "evalue": evalue, "traceback": traceback}
}

func (k *kernel) kernelInfo() object {
	link := func(text, url string) object { return object{"text": text, "url": url} }
	return object{
		"status": "ok", "protocol_version": protocolVersion,
		"implementation": "gotune", "implementation_version": strings.TrimPrefix(ModuleVersion(), "v"),
		"banner": "Go (gotune): Go notebooks that fine-tune language models. %gotune help lists the magics, %help those of GoNB.",
		"language_info": object{"name": "go", "version": k.env.goVersion, "mimetype": "text/x-go", "file_extension": ".go",
			"pygments_lexer": "go", "codemirror_mode": "go", "nbconvert_exporter": ""},
		"help_links": []object{
			link("gotune", "https://github.com/gotune/gotune"),
			link("GoNB", "https://github.com/janpfeifer/gonb"),
			link("Go", "https://go.dev/doc/"),
			link("Go standard library", "https://pkg.go.dev/std"),
		},
		"debugger": false,
	}
}

func (k *kernel) onIsComplete(r *request) {
	var c struct {
		Code *string `json:"code"`
	}
	if r.decode(&c) != nil || c.Code == nil {
		k.badRequest(r, "code is not a string")
		return
	}
	reply := object{"status": completeness(*c.Code)}
	if reply["status"] == "incomplete" {
		reply["indent"] = "\t"
	}
	k.reply(r, reply)
}

func (k *kernel) onComm(r *request) {
	var c struct {
		ID     string `json:"comm_id"`
		Target string `json:"target_name"`
	}
	if r.decode(&c) != nil || c.ID == "" {
		k.log.Printf("dropped a %s without a comm_id", r.kind())
		return
	}
	k.busy(r)
	switch {
	case r.kind() == "comm_open" && c.Target != gonbComm:
		k.publish("comm_close", r.header, object{"comm_id": c.ID, "data": object{}})
	case r.kind() != "comm_close": // GoNB knows no comm_close
		go k.toGoNB(r, shellOf)
	}
	k.idle(r)
}

func (k *kernel) onShutdown(r *request) {
	var c struct {
		Restart bool `json:"restart"`
	}
	if r.decode(&c) != nil {
		k.badRequest(r, "restart is not a boolean")
		return
	}
	k.stopping.Store(true)
	k.reply(r, object{"status": "ok", "restart": c.Restart})
	k.publish("shutdown_reply", r.header, object{"status": "ok", "restart": c.Restart})
	drain(time.Second)
	k.stop(0)
}

// onInputReply passes on an answer to input that a cell waits for.
func (k *kernel) onInputReply(r *request) {
	var c struct {
		Value *string `json:"value"`
	}
	if r.kind() != "input_reply" || r.decode(&c) != nil || c.Value == nil {
		k.log.Printf("dropped a %s on the stdin channel: not an input_reply with a value", r.kind())
		return
	}
	k.mu.Lock()
	asked := k.input
	k.input = false
	k.mu.Unlock()
	if !asked {
		k.log.Print("dropped an input_reply: no cell waits for input")
		return
	}
	if err := k.gonb.send(k.gonb.stdin, r.message); err != nil {
		k.log.Print(err)
	}
}

// onInput passes on a cell's request for input, or ends the cell when its client takes none.
func (k *kernel) onInput(m *message) {
	k.mu.Lock()
	c := k.cell
	if c != nil && c.id() == m.parentID() && c.allowStdin {
		k.input = true
		k.mu.Unlock()
		m.identities = c.identities
		k.transmit(k.stdin, m)
		return
	}
	k.mu.Unlock()
	if c != nil && c.id() == m.parentID() {
		c.fail(&cellError{"StdinNotImplementedError", "the cell asks for input, and this client takes none (allow_stdin is false)", nil})
		k.stopCell(c)
	}
}

// onTab answers completion and inspection: %gotune lines here, all else by GoNB.
func (k *kernel) onTab(r *request) {
	var c struct {
		Code   *string  `json:"code"`
		Cursor *float64 `json:"cursor_pos"`
		Detail float64  `json:"detail_level"`
	}
	if r.decode(&c) != nil || c.Code == nil || c.Cursor == nil || *c.Cursor < 0 || int(*c.Cursor) > utf8.RuneCountInString(*c.Code) {
		k.badRequest(r, "code is not a string, or cursor_pos is not within it")
		return
	}
	code, cursor := *c.Code, int(*c.Cursor)
	if strings.HasPrefix(lineAt(code, cursor).whole, "%") {
		go func() { // a run's name is asked of the engine
			if content, ok := magicTab(r.kind(), code, cursor, k.runNames); ok {
				k.reply(r, content)
				return
			}
			k.holdTab(r, code, cursor, int(c.Detail))
		}()
		return
	}
	go k.holdTab(r, code, cursor, int(c.Detail))
}

// goplsDelay is how long GoNB's first handshake with gopls blocks everything behind a completion, cells
// included: until then completions wait here.
const goplsDelay = 12500 * time.Millisecond

// holdTab relays r once GoNB can answer it. Of several that wait only the last is relayed.
func (k *kernel) holdTab(r *request, code string, cursor, detail int) {
	r.content = encode(object{"code": code, "cursor_pos": utf16Offset(code, cursor), "detail_level": detail})
	if wait := goplsDelay - time.Since(k.started); wait > 0 {
		k.mu.Lock()
		older := k.waiting
		k.waiting = r
		k.mu.Unlock()
		if older != nil {
			k.reply(older, emptyTab(older.kind(), 0))
		}
		select {
		case <-time.After(wait):
		case <-k.quit:
			return
		}
		k.mu.Lock()
		last := k.waiting == r
		if last {
			k.waiting = nil
		}
		k.mu.Unlock()
		if !last {
			return
		}
	}
	<-k.ready
	if k.gonb == nil {
		k.reply(r, emptyTab(r.kind(), 0))
		return
	}
	k.toGoNB(&request{message: &message{identities: r.identities, header: r.header, parent: r.parent, metadata: r.metadata, content: r.content}, channel: r.channel}, shellOf)
}

// emptyTab is the content of a reply that found nothing.
func emptyTab(kind string, cursor int) object {
	if kind == "complete_request" {
		return object{"status": "ok", "matches": []string{}, "cursor_start": cursor, "cursor_end": cursor, "metadata": object{}}
	}
	return object{"status": "ok", "found": false, "data": object{}, "metadata": object{}}
}

// onReply handles what GoNB answers on its shell channel (it answers everything there).
func (k *kernel) onReply(m *message) {
	k.mu.Lock()
	r := k.relayed[m.parentID()]
	own := k.own[m.parentID()]
	c := k.cell
	if c == nil || r == nil || r != c.request {
		delete(k.relayed, m.parentID())
	}
	k.mu.Unlock()
	switch {
	case own != nil:
		select {
		case own <- m:
		default:
		}
		return
	case r == nil:
		return // to a request of the kernel's own that nobody waits for
	case c != nil && r == c.request:
		c.replied(m)
		return
	case m.kind() == "complete_reply":
		m.content = completionFromGoNB(r, m.content)
	case m.kind() == "inspect_reply":
		var found struct{ Data object }
		if m.decode(&found) == nil && foundNothing(found.Data) {
			m.content = encode(emptyTab(r.kind(), 0))
		}
	}
	m.header["session"] = k.session
	m.identities = r.identities
	k.transmit(r.channel, m)
}

// completionFromGoNB counts cursor positions in code points, as the protocol does; GoNB counts UTF-16 units.
func completionFromGoNB(r *request, content json.RawMessage) json.RawMessage {
	var asked struct {
		Code string `json:"code"`
	}
	var c object
	if r.decode(&asked) != nil || json.Unmarshal(content, &c) != nil {
		return content
	}
	for _, name := range []string{"cursor_start", "cursor_end"} {
		if n, ok := c[name].(float64); ok {
			c[name] = codePointOffset(asked.Code, int(n))
		}
	}
	return encode(c)
}
