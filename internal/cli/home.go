package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/doctor"
)

// tempName fits what a run renames into the cache once it is whole, or keeps
// there between two passes: leftovers where no run is under way.
var tempName = regexp.MustCompile(`^(\.tmp-\d+|copy-\d+|files\.\d+)$`)

// dropTemps removes what killed runs have left below the cache. No other run may
// be under way.
func dropTemps(cache string) error {
	err := filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || !tempName.MatchString(d.Name()) {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("removing temporary files: %w", err)
	}
	return nil
}

// secureHome makes the folder of everything that Strata keeps, for its user
// alone, and closes one, or parts of one, that an earlier version left open. It
// refuses a folder that somebody else could change under it.
func (a *app) secureHome() error {
	home := a.home()
	why, hint, err := doctor.Foreign(home, os.Geteuid())
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	if why != "" {
		return diag.Hint(fmt.Errorf("opening the store: %s", why), "%s", hint)
	}
	info, err := os.Stat(home)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(home, 0o700)
	}
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	// What can't be closed (another's, a file system without modes) doctor tells.
	if info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		_ = os.Chmod(home, info.Mode().Perm()&^0o022)
	}
	for _, part := range doctor.Parts {
		part = filepath.Join(home, part)
		if info, err := os.Stat(part); err == nil && info.IsDir() && info.Mode()&0o077 != 0 {
			_ = os.Chmod(part, 0o700)
		}
	}
	return nil
}

// another says whether root would work in a folder that belongs to somebody
// else, as with sudo -E.
func another(dir string) bool { return os.Geteuid() == 0 && doctor.Another(dir, 0) }
