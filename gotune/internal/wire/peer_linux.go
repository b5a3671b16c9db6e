package wire

import (
	"fmt"
	"os"
	"syscall"
)

// checkPeer refuses a connection whose other end runs as another user.
func checkPeer(fd int) error {
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	if int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("the other end runs as user %d, and only user %d may use this engine", cred.Uid, os.Getuid())
	}
	return nil
}
