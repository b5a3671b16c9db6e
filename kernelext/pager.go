package kernelext

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// question is a cell that asks for help, as in IPython: NAME? or ?NAME, where NAME is a Go name or a magic.
var question = regexp.MustCompile(`^(?:\?{1,2}([^\s?].*?)|(\S.*?)\?{1,2})$`)

// asked is the name that a cell of one line asks about.
var asked = regexp.MustCompile(`^(?:[\pL_][\pL\pN_]*(?:\.[\pL_][\pL\pN_]*)*|%{1,2}[a-z_]+(?: [a-z-]+)?)$`)

// askedName is what a cell asks help about, or "".
func askedName(source string) string {
	m := question.FindStringSubmatch(strings.TrimSpace(source))
	if m == nil || !asked.MatchString(m[1]+m[2]) {
		return ""
	}
	return m[1] + m[2]
}

// page answers a cell that asks for help with a pager: a console shows it aside, a notebook below the cell.
func (k *kernel) page(c *cell, name string) error {
	data, err := k.help(c, name)
	if err != nil {
		return err
	}
	c.payload = []object{{"source": "page", "start": 0, "data": data}}
	return nil
}

// goplsMore is how long after goplsDelay an answer that nothing is known is asked for again.
const goplsMore = 10 * time.Second

// help is what is known of a name, by MIME type.
func (k *kernel) help(c *cell, name string) (object, error) {
	if text, ok := inspectMagic(name); ok {
		return object{"text/plain": text}, nil
	}
	code := "%%\n" + name
	if strings.HasPrefix(name, "%") {
		code = name
	}
	if wait := goplsDelay - time.Since(k.started); wait > 0 && code != name {
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
	for {
		m, err := k.askGoNB(c, "inspect_request", object{"code": code, "cursor_pos": utf16Offset(code, len(code)), "detail_level": 0})
		if err != nil {
			return nil, err
		}
		var r struct {
			Found bool
			Data  object
		}
		if err := m.decode(&r); err != nil {
			return nil, fmt.Errorf("read GoNB's answer: %w", err)
		}
		if r.Found && len(r.Data) > 0 && !foundNothing(r.Data) {
			if _, ok := r.Data["text/plain"]; !ok { // consoles, and the protocol, want it
				r.Data["text/plain"] = r.Data["text/markdown"]
			}
			return r.Data, nil
		}
		if time.Since(k.started) > goplsDelay+goplsMore {
			return nil, fmt.Errorf("nothing is known of %s: it is neither a magic nor a Go name that the cells declare or a package exports", name)
		}
		select { // on a busy machine gopls takes longer to know the standard library
		case <-time.After(time.Second):
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

// foundNothing says whether an inspection by GoNB that claims a success has none.
func foundNothing(data object) bool {
	text, _ := data["text/plain"].(string)
	return strings.HasPrefix(text, "gopls request returned 'hover' with unexpected kind")
}

// askGoNB sends GoNB a request of the kernel's own and waits for the answer.
func (k *kernel) askGoNB(c *cell, kind string, content object) (*message, error) {
	m := newMessage(k.session, kind, nil, content)
	answer := make(chan *message, 1)
	k.mu.Lock()
	k.own[m.id()] = answer
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.own, m.id())
	}()
	if err := k.gonb.send(k.gonb.shell, m); err != nil {
		return nil, fmt.Errorf("ask GoNB: %w", err)
	}
	select {
	case a := <-answer:
		return a, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	case <-k.gonb.gone:
		return nil, errors.New("GoNB ended before it answered")
	}
}
