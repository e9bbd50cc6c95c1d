//go:build !linux

package buildkit

import (
	"context"
	"errors"

	"github.com/strata-build/strata/internal/diag"
)

// Embedded is the engine in this process; there is none but on Linux.
type Embedded struct{ engine }

// Open says that there is no embedded engine on this system.
func Open(context.Context, Options) (*Embedded, error) {
	return nil, diag.Hint(errors.New("opening engine: the embedded engine needs Linux"),
		"name a BuildKit with --engine or $BUILDKIT_HOST")
}

// Close does nothing.
func (*Embedded) Close() error { return nil }

func hasEmulator(string) (bool, error) { return false, nil }

// RegisterBinfmt says that emulators are registered on Linux only.
func RegisterBinfmt(string) error {
	return errors.New("registering emulator: this needs Linux")
}

// RuncPath gives "": there is no runc on this system.
func RuncPath() (path, from string) { return "", "" }
