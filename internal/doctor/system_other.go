//go:build !linux

package doctor

import (
	"context"
	"errors"
)

// Only Linux has what is asked for here; [kernel] says so first.
var errNotLinux = errors.New("this is only known on Linux")

func freeSpace(string) (space, error) { return space{}, errNotLinux }

func tryOverlay(string) error { return errNotLinux }

func inNamespaces(context.Context, string, bool) error { return errNotLinux }
