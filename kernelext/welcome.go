package kernelext

import (
	"context"
	"encoding/binary"
)

// welcomeFunc is the frames that a new subscriber to a topic is greeted with.
type welcomeFunc func(topic string) [][]byte

// welcomeKey is where the context of a PUB socket has its welcomeFunc.
type welcomeKey struct{}

// withWelcome is the context for a PUB socket that greets its subscribers, as XPUB sockets can
// (https://jupyter.org/enhancement-proposals/65-jupyter-xpub/jupyter-xpub.html): a client that has got the
// iopub_welcome knows that it will miss no output. zmq4 has no XPUB. Here the welcome is put in front of all that
// zmq4 sends, before zmq4 hears of the subscription, and goes to the new subscriber alone.
func withWelcome(ctx context.Context, w welcomeFunc) context.Context {
	return context.WithValue(ctx, welcomeKey{}, w)
}

// welcome is the iopub_welcome for a topic.
func (k *kernel) welcome(topic string) [][]byte {
	m := newMessage(k.session, "iopub_welcome", nil, object{"subscription": topic})
	m.identities = [][]byte{[]byte(topic)}
	return k.codec.frames(m)
}

// heard is told what a subscriber sends: 1 and a topic for a subscription. Only the first is answered: later ones
// could come in the middle of a message that zmq4 writes.
func (c *safeConn) heard(body []byte, w welcomeFunc) {
	if len(body) == 0 || body[0] != 1 || c.welcomed {
		return
	}
	c.welcomed = true
	c.push(zmtpMessage(w(string(body[1:]))))
}

// zmtpMessage is a message on the wire: each frame with its flag, 1 for more to come and 2 for a long length.
func zmtpMessage(frames [][]byte) []byte {
	var b []byte
	for i, f := range frames {
		flag := byte(0)
		if i < len(frames)-1 {
			flag = 1
		}
		if len(f) > 255 {
			b = binary.BigEndian.AppendUint64(append(b, flag|2), uint64(len(f)))
		} else {
			b = append(b, flag, byte(len(f)))
		}
		b = append(b, f...)
	}
	return b
}
