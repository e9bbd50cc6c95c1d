package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/strata-build/strata/internal/diag"
)

// Remove removes the registry in dir. It fails, and removes nothing, while another
// process has it open. The file with the lock stays: who waits for it would else
// hold one that nobody else knows.
func Remove(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	const locked = "lock"
	lock := flock.New(filepath.Join(dir, locked))
	ok, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("locking %q: %w", dir, err)
	}
	defer lock.Close()
	if !ok {
		return diag.Hint(fmt.Errorf("the registry in %q is %w", dir, ErrInUse), "end other runs of strata and `strata registry serve` first")
	}
	var errs []error
	for _, n := range names {
		if n.Name() != locked {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, n.Name())))
		}
	}
	return errors.Join(errs...)
}
