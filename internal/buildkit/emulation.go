package buildkit

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/platforms"

	"github.com/strata-build/strata/internal/diag"
)

// ErrNoEmulator says that this machine can't run programs of a platform.
// Images of COPY and metadata only need none.
var ErrNoEmulator = errors.New("this machine has no emulator for it")

// Emulation tells whether this machine runs programs of platform itself, or by
// emulation. When it does neither, the error is [ErrNoEmulator], with what to
// do as its hint.
func Emulation(platform string) (native, emulated bool, err error) {
	p, err := platforms.Parse(platform)
	if err != nil {
		return false, false, fmt.Errorf("reading platform %q: %w", platform, err)
	}
	if p.OS == runtime.GOOS && runsNatively(p.Architecture) {
		return true, false, nil
	}
	if p.OS == "linux" {
		if emulated, err = hasEmulator(p.Architecture); err != nil || emulated {
			return false, emulated, err
		}
	}
	return false, false, diag.Hint(fmt.Errorf("running programs of %q: %w", platform, ErrNoEmulator),
		"%s", emulatorHint(platform))
}

// runsNatively counts the 32-bit mode of a 64-bit processor.
func runsNatively(arch string) bool {
	switch runtime.GOARCH {
	case arch:
		return true
	case "amd64":
		return arch == "386"
	case "arm64":
		return arch == "arm"
	}
	return false
}

func emulatorHint(platform string) string {
	return fmt.Sprintf("install an emulator for %s and register it: apt-get install qemu-user-static && strata doctor --fix; "+
		"or name a native BuildKit with --engine", platform)
}
