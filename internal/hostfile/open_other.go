//go:build !unix

package hostfile

const nonblock = 0
