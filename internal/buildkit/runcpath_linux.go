package buildkit

import (
	"os"
	"sync"
)

// RuncPath gives the runc that an engine would use, as a path that this
// process's children can execute while it runs, and where it comes from; "" when
// there is none.
func RuncPath() (path, from string) {
	p, err := runcOnce()
	if err != nil {
		return "", ""
	}
	if p.hold != nil {
		return p.path, "in this program"
	}
	return p.path, p.path
}

var runcOnce = sync.OnceValues(func() (program, error) {
	p, err := findRunc("", os.TempDir())
	if err == nil {
		err = p.wait()
	}
	return p, err
})
