package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// Do sends a request whose events nobody needs and reads its reply into reply,
// a pointer, or nil to drop it. When ctx ends the connection is dropped.
func Do(ctx context.Context, path string, q Request, reply any) error {
	c, err := Dial(path, q)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for {
		m, err := c.Next()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == io.EOF:
			return fmt.Errorf("wire: the server hung up before it answered %s", q.Verb)
		case err != nil:
			return err
		case m.Error != nil:
			return m.Error
		case m.Reply == nil:
			continue
		case reply == nil:
			return nil
		}
		if err := json.Unmarshal(m.Reply, reply); err != nil {
			return fmt.Errorf("wire: the reply to %s is not a %T: %w", q.Verb, reply, err)
		}
		return nil
	}
}
