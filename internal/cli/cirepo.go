package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/strata-build/strata/internal/diag"
)

// ciRepository is what git says about the repository that pipelines are for.
type ciRepository struct {
	root, dir string
	none      bool   // the project is in no repository
	untracked bool   // it is in one that tracks none of its files
	head      string // the main branch at origin; "" where git doesn't know
	git       func(args ...string) (string, error)
}

func (a *app) ciRepository(ctx context.Context) (ciRepository, error) {
	dir, err := filepath.Abs(a.dir())
	if err != nil {
		return ciRepository{}, fmt.Errorf("finding the project's folder: %w", err)
	}
	r := ciRepository{root: repositoryRoot(dir), dir: dir}
	if r.none = !exists(filepath.Join(r.root, ".git")); r.none {
		return r, nil
	}
	r.git = func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", r.root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if ref, err := r.git("symbolic-ref", "--quiet", "refs/remotes/origin/HEAD"); err == nil {
		r.head = strings.TrimPrefix(ref, "refs/remotes/origin/")
	}
	if r.root != dir {
		files, err := r.git("--literal-pathspecs", "ls-files", "--", dir)
		r.untracked = err == nil && files == ""
	}
	return r, nil
}

// has says whether there is such a branch, here or at origin, or will be with the
// first commit; yes where git has no answer.
func (r ciRepository) has(branch string) bool {
	for _, ref := range []string{"refs/heads/" + branch, "refs/remotes/origin/" + branch} {
		var e *exec.ExitError
		if _, err := r.git("show-ref", "--verify", "--quiet", ref); !errors.As(err, &e) || e.ExitCode() != 1 {
			return true
		}
	}
	now, err := r.git("symbolic-ref", "--quiet", "HEAD")
	return err == nil && now == "refs/heads/"+branch
}

// warnOfRepository says what a host would make of the files, other than what is
// likely meant. own are the generator's options.
func (a *app) warnOfRepository(r ciRepository, own *pflag.FlagSet) {
	warn := func(text, hint string) { a.warn(diag.Finding{Text: text, Hint: hint}) }
	switch {
	case r.none:
		warn(fmt.Sprintf("%q is in no git repository: a host finds the files only at the top of one", r.dir), "git init, there or above")
	case r.untracked:
		warn(fmt.Sprintf("the repository at %q tracks no file of the project", r.root), "git add them, or git init in the project's folder")
	}
	if b := own.Lookup("branch"); b != nil && !r.none && b.Value.String() != "" && !r.has(b.Value.String()) {
		warn(fmt.Sprintf("there is no branch %s, here or at origin: nothing would be published", b.Value), "--branch names the main branch")
	}
	if v := own.Lookup("strata-version"); v != nil && !v.Changed && v.Value.String() == "latest" {
		warn("this strata is of no release: runners install @latest, whatever that is then", "--strata-version v1.2.3 names one")
	}
}

func folderName(folder string) string {
	if folder == "" {
		return "the repository's top"
	}
	return fmt.Sprintf("the folder %q", folder)
}
