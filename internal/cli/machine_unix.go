//go:build unix

package cli

import (
	"os"
	"syscall"
)

// allocated gives the bytes that a file takes on disk, what identifies it, and
// whether it has only one name.
func allocated(info os.FileInfo) (bytes int64, id [2]uint64, once bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size(), id, true
	}
	return st.Blocks * 512, [2]uint64{uint64(st.Dev), st.Ino}, st.Nlink <= 1
}
