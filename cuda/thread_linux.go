package cuda

import "syscall"

// threadID is the operating system's number of this thread.
func threadID() int { return syscall.Gettid() }
