package kernelext

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	delimiter       = "<IDS|MSG>"
	protocolVersion = "5.4"
	replayWindow    = 1 << 16 // signatures remembered
)

// object is a JSON object.
type object = map[string]any

// message is one Jupyter message. Content and metadata are JSON objects, checked but not decoded.
type message struct {
	identities        [][]byte
	header, parent    object
	metadata, content json.RawMessage
	buffers           [][]byte
}

func (m *message) kind() string { s, _ := m.header["msg_type"].(string); return s }
func (m *message) id() string   { s, _ := m.header["msg_id"].(string); return s }

// parentID is the id of the request that the message belongs to, or "".
func (m *message) parentID() string { s, _ := m.parent["msg_id"].(string); return s }

// decode reads the content into v. Fields of the wrong type are an error.
func (m *message) decode(v any) error { return json.Unmarshal(m.content, v) }

// codec signs, checks, reads and writes the frames of messages.
type codec struct {
	key     []byte // empty: no signatures, as the protocol has it
	trusted bool   // the peer is our own GoNB: contents are taken as they are, which a flood of output needs

	mu   sync.Mutex
	seen map[string]struct{} // signatures of the last messages
	ring []string            // the same, oldest first from next
	next int
}

func newCodec(key string) *codec {
	return &codec{key: []byte(key), seen: map[string]struct{}{}}
}

// sign is the hex HMAC-SHA256 of the four JSON parts.
func (c *codec) sign(parts ...[]byte) []byte {
	if len(c.key) == 0 {
		return nil
	}
	h := hmac.New(sha256.New, c.key)
	for _, p := range parts {
		h.Write(p)
	}
	return hex.AppendEncode(nil, h.Sum(nil))
}

// read checks and parses frames: identities, delimiter, signature, header, parent header, metadata,
// content, buffers. It refuses a message it has read before.
func (c *codec) read(frames [][]byte) (*message, error) {
	i := 0
	for i < len(frames) && string(frames[i]) != delimiter {
		i++
	}
	if i == len(frames) {
		return nil, errors.New("no delimiter frame")
	}
	if n := len(frames) - i; n < 6 {
		return nil, fmt.Errorf("%d frames from the delimiter on, want at least 6", n)
	}
	signature, parts := frames[i+1], frames[i+2:]
	if !hmac.Equal(signature, c.sign(parts[:4]...)) && len(c.key) > 0 {
		return nil, errors.New("wrong signature")
	}
	m := &message{identities: frames[:i], metadata: parts[2], content: parts[3], buffers: parts[4:]}
	for j, name := range []string{"header", "parent header", "metadata", "content"} {
		if text := bytes.TrimLeft(parts[j], " \t\r\n"); !c.trusted && (!bytes.HasPrefix(text, []byte("{")) || !json.Valid(text)) {
			return nil, fmt.Errorf("%s is not a JSON object", name)
		}
	}
	if json.Unmarshal(parts[0], &m.header) != nil || json.Unmarshal(parts[1], &m.parent) != nil {
		return nil, errors.New("header cannot be read")
	}
	if m.id() == "" || m.kind() == "" {
		return nil, errors.New("header without msg_id or msg_type")
	}
	if len(c.key) > 0 && !c.trusted && !c.fresh(string(signature)) {
		return nil, fmt.Errorf("%s %q was seen before", m.kind(), m.id())
	}
	return m, nil
}

// fresh remembers a signature and says whether it is new.
func (c *codec) fresh(signature string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, old := c.seen[signature]; old {
		return false
	}
	c.seen[signature] = struct{}{}
	if len(c.ring) < replayWindow {
		c.ring = append(c.ring, signature)
		return true
	}
	delete(c.seen, c.ring[c.next])
	c.ring[c.next] = signature
	c.next = (c.next + 1) % replayWindow
	return true
}

// frames is m as it goes over the wire.
func (c *codec) frames(m *message) [][]byte {
	parts := [][]byte{encode(m.header), encode(m.parent), m.metadata, m.content}
	out := make([][]byte, 0, len(m.identities)+6+len(m.buffers))
	out = append(out, m.identities...)
	out = append(out, []byte(delimiter), c.sign(parts...))
	return append(append(out, parts...), m.buffers...)
}

// encode is v as JSON; a nil object is {}.
func encode(v any) json.RawMessage {
	if o, ok := v.(object); ok && o == nil {
		return json.RawMessage("{}")
	}
	b, err := json.Marshal(v)
	if err != nil { // only for values that this package never sends: channels, functions, NaN
		panic("kernelext: " + err.Error())
	}
	return b
}

// newID is a random identity of 32 hexadecimal digits.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// newMessage makes a message of this kernel's session. Parent is the header of the request it answers,
// or nil.
func newMessage(session, kind string, parent object, content any) *message {
	return &message{
		header: object{"msg_id": newID(), "session": session, "username": "gotune", "msg_type": kind,
			"version": protocolVersion, "date": time.Now().UTC().Format(time.RFC3339Nano)},
		parent: parent, metadata: json.RawMessage("{}"), content: encode(content),
	}
}
