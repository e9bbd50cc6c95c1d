package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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
