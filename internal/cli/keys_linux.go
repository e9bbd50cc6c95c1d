package cli

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

// takeKeys begins to collect the keys of a terminal for a program that is not
// there yet: each by itself, so that an end of the input is not lost, but Ctrl-C
// still ends the command. With keys(true) the program gets Ctrl-C, too, and with
// keys(false) and restore the terminal is as before.
func takeKeys(in *os.File) (keys func(all bool) error, restore func(), err error) {
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a shell: reading how the terminal is set: %w", err)
	}
	if atEnd(fd) {
		return nil, nil, diag.Hint(errors.New("opening a shell: the input of the terminal has ended already"),
			"`strata run UNIT -- COMMAND` runs a command without a terminal")
	}
	set := func(t *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TCSETS, t) }
	waiting := *before
	waiting.Lflag &^= unix.ICANON | unix.ECHO
	waiting.Cc[unix.VMIN], waiting.Cc[unix.VTIME] = 1, 0
	if err := set(&waiting); err != nil {
		return nil, nil, fmt.Errorf("opening a shell: setting the terminal: %w", err)
	}
	return func(all bool) error {
		if !all {
			return set(before)
		}
		raw := waiting
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Oflag &^= unix.OPOST
		raw.Lflag &^= unix.ECHONL | unix.ISIG | unix.IEXTEN
		raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		return set(&raw)
	}, func() { _ = set(before) }, nil
}

// atEnd says whether a terminal that gives whole lines has nothing to give but
// its end, which is not seen any more once it gives single keys.
func atEnd(fd int) bool {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(ready, 0)
	if err != nil || n == 0 || ready[0].Revents&unix.POLLIN == 0 {
		return false
	}
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	return err == nil && waiting == 0
}
