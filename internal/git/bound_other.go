//go:build !linux

package git

// bound does nothing here: only Linux limits another process.
func bound(int) {}
