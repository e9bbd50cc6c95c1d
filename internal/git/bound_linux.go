package git

import "golang.org/x/sys/unix"

// bound limits the memory of a process that has just been started. It takes a
// moment in which the process is free, and is nothing that a run depends on.
func bound(pid int) {
	limit := unix.Rlimit{Cur: maxMemory, Max: maxMemory}
	_ = unix.Prlimit(pid, unix.RLIMIT_DATA, &limit, nil)
}
