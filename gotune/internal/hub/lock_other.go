//go:build !unix

package hub

import "context"

// lockFile does nothing where there is no flock: digests, not locks, keep the cache right.
func lockFile(context.Context, string) (release func(), err error) { return func() {}, nil }

// freeBytes is unknown here.
func freeBytes(string) int64 { return -1 }
