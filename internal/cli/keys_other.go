//go:build !linux

package cli

import (
	"os"
	"sync"

	"golang.org/x/term"
)

// takeKeys leaves a terminal as it is until keys(true) hands every key to the
// program, Ctrl-C too; with keys(false) and restore it is as before.
func takeKeys(in *os.File) (keys func(all bool) error, restore func(), err error) {
	var mu sync.Mutex
	var before *term.State
	keys = func(all bool) error {
		mu.Lock()
		defer mu.Unlock()
		var err error
		switch {
		case all && before == nil:
			before, err = term.MakeRaw(int(in.Fd()))
		case !all && before != nil:
			err = term.Restore(int(in.Fd()), before)
			before = nil
		}
		return err
	}
	return keys, func() { _ = keys(false) }, nil
}
