//go:build !linux

package wire

// checkPeer relies on the socket's folder, which only this user can enter.
func checkPeer(int) error { return nil }
