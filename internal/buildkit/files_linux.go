package buildkit

import (
	"fmt"
	"hash/fnv"
	"syscall"
)

// withTrace replaces the low bits of mtime by a hash of the change time and
// inode of the file at path.
func withTrace(mtime int64, path string) int64 {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return mtime
	}
	h := fnv.New32a()
	fmt.Fprint(h, st.Ctim.Nano(), st.Ino)
	return mtime&^0xffff | int64(h.Sum32()&0xffff)
}
