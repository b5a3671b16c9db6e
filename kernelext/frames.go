package kernelext

import (
	"encoding/binary"
	"errors"
)

// maxMessage is the largest message taken from a client, in bytes over all its frames. A larger one
// ends its connection before memory for it is reserved.
const maxMessage = 256 << 20

var errTooLarge = errors.New("message is larger than 256 MiB")

// frameMeter follows a ZMTP 3 byte stream (greeting of 64 bytes, then flag, length, body) without
// keeping it, to end a connection whose frame header claims more than maxMessage: zmq4 allocates what
// the header says.
type frameMeter struct {
	heard func(body []byte) // told the messages of one short frame, as subscriptions are; may be nil
	body  []byte            // of such a frame, as far as it has come

	greeting int    // bytes of the greeting still to come
	header   []byte // of the frame being read
	alone    bool   // the frame whose body is being read is a message
	more     bool   // and it is not the last of one
	left     uint64 // bytes of the current body still to come
	sum      uint64 // bytes of the current message so far
}

// feed accounts for b, the next bytes of the stream.
func (m *frameMeter) feed(b []byte) error {
	for len(b) > 0 {
		switch {
		case m.greeting > 0:
			n := min(m.greeting, len(b))
			m.greeting, b = m.greeting-n, b[n:]
		case m.left > 0:
			n := min(m.left, uint64(len(b)))
			m.listen(b[:n], m.left-n)
			m.left, b = m.left-n, b[n:]
		default:
			m.header, b = append(m.header, b[0]), b[1:]
			if err := m.frame(); err != nil {
				return err
			}
		}
	}
	return nil
}

// listen gathers the body of a frame that is a short message by itself: neither a command nor of several frames.
func (m *frameMeter) listen(b []byte, left uint64) {
	if m.heard == nil || !m.alone {
		return
	}
	if m.body = append(m.body, b...); left == 0 {
		m.heard(m.body)
		m.body = nil
	}
}

// frame reads the header once it is complete: bit 0 of the flag says more frames follow, bit 1 that
// the length takes eight bytes instead of one.
func (m *frameMeter) frame() error {
	long := m.header[0]&2 != 0
	if len(m.header) < 2 || long && len(m.header) < 9 {
		return nil
	}
	m.left = uint64(m.header[1])
	if long {
		m.left = binary.BigEndian.Uint64(m.header[1:])
	}
	if m.left > maxMessage || m.sum+m.left > maxMessage {
		return errTooLarge
	}
	m.sum += m.left
	m.alone, m.body = m.header[0] == 0 && !m.more, nil
	if m.more = m.header[0]&1 != 0; !m.more {
		m.sum = 0
	}
	m.header = m.header[:0]
	return nil
}
