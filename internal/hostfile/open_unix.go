//go:build unix

package hostfile

import "syscall"

const nonblock = syscall.O_NONBLOCK
