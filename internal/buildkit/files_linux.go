package buildkit

import (
	"fmt"
	"hash/fnv"
	"syscall"
)

const openNonblock = syscall.O_NONBLOCK

// withTrace replaces the low bits of mtime by a hash of the change time and
// inode of the file at path. The second stays: a time of a whole one has no bits
// below it to give.
func withTrace(mtime int64, path string) int64 {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return mtime
	}
	h := fnv.New32a()
	fmt.Fprint(h, st.Ctim.Nano(), st.Ino)
	ns := (mtime%1e9 + 1e9) % 1e9
	return mtime - ns + min(ns&^0xffff|int64(h.Sum32()&0xffff), 1e9-1)
}
