package git

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// trusted looks whose the repository is. The error holds git's own remedy.
func (r *Repo) trusted(user []setting) error {
	owners := append([]int{os.Geteuid(), 0}, r.machine.Owners...)
	if uid, ok := owner(r.dir); ok {
		owners = append(owners, uid)
	}
	for _, p := range []string{filepath.Join(r.root, ".git"), r.root, r.gitDir, r.common} {
		uid, ok := owner(p)
		if !ok || slices.Contains(owners, uid) {
			continue
		}
		if r.safe(user) {
			return nil
		}
		return diag.Hint(fmt.Errorf("reading the git repository at %q: dubious ownership: %q belongs to the user %d, the project's folder does not", r.root, p, uid),
			"git config --global --add safe.directory %s", r.root)
	}
	return nil
}

// safe says whether the user has said that the repository may be read. As git has
// it, an empty value takes back what was said, and "*" is every repository.
func (r *Repo) safe(user []setting) bool {
	yes := false
	for _, s := range user {
		if s.key != "safe.directory" {
			continue
		}
		dir := s.value
		if rest, ok := strings.CutPrefix(dir, "~/"); ok {
			dir = filepath.Join(r.machine.getenv("HOME"), rest)
		}
		switch {
		case dir == "":
			yes = false
		case dir == "*":
			yes = true
		case strings.HasSuffix(dir, "/*"):
			yes = yes || strings.HasPrefix(r.root+"/", r.real(strings.TrimSuffix(dir, "/*"))+"/")
		case filepath.IsAbs(dir):
			yes = yes || r.real(dir) == r.root
		}
	}
	return yes
}

// real gives a path without links; one that leads nowhere as it is.
func (r *Repo) real(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}
