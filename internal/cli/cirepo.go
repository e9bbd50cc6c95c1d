package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
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
	root, dir, err := a.repository()
	if err != nil {
		return ciRepository{}, err
	}
	r := ciRepository{root: root, dir: dir}
	repo, err := a.git().Open(ctx, r.root)
	if errors.Is(err, git.ErrNone) {
		r.none = true
		return r, nil
	}
	if errors.Is(err, git.ErrMissing) {
		r.git = func(...string) (string, error) { return "", err }
		return r, nil
	}
	if err != nil {
		return r, err
	}
	a.onClose(repo.Close)
	if repo.Root() != r.root { // somebody's in a folder for all, such as /tmp
		r.none = true
		return r, nil
	}
	r.git = func(args ...string) (string, error) { return repo.Literal().Output(ctx, args...) }
	if ref, err := r.git("symbolic-ref", "--quiet", "refs/remotes/origin/HEAD"); err == nil {
		r.head = strings.TrimPrefix(ref, "refs/remotes/origin/")
	}
	if r.root != dir {
		folder, err := filepath.Rel(r.root, dir)
		if err != nil {
			return r, fmt.Errorf("finding the project in its repository: %w", err)
		}
		files, err := r.git("ls-files", "--", filepath.ToSlash(folder))
		r.untracked = err == nil && files == ""
	}
	return r, nil
}

// has says whether there is such a branch, here or at origin, or will be with the
// first commit; yes where git has no answer.
func (r ciRepository) has(branch string) bool {
	for _, ref := range []string{"refs/heads/" + branch, "refs/remotes/origin/" + branch} {
		if _, err := r.git("show-ref", "--verify", "--quiet", ref); git.ExitCode(err) != 1 {
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
	if len(a.flags.allow) > 0 {
		warn("the pipelines run without --allow, so they will refuse what it allows here", "keep what the images need in the repository, or fetch it there in a job")
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
