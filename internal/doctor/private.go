package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Parts are the folders of Strata's state that nobody else has a business in:
// images and logs hold private code, and root works on what lies there.
var Parts = []string{"registry", "engine", "records", "cache", "watch"}

// Foreign says why the folder of the state must not be used by the user uid,
// and what to do: it, a link to it, or one of its parts belongs to somebody else
// (sudo -E leads root into a user's), who could put anything in its place. "" is
// nothing. What is not there yet, or root's, is all right.
func Foreign(dir string, uid int) (why, hint string, err error) {
	for _, at := range append([]string{dir}, parts(dir)...) {
		owner, err := stranger(at, uid)
		if err != nil {
			return "", "", err
		}
		if owner != 0 {
			return fmt.Sprintf("%q belongs to the user %d, who could put anything there", at, owner), fmt.Sprintf(
				"use another folder: export STRATA_HOME=/path/of/your/own; or make this one yours: sudo chown -R %d %s", uid, dir), nil
		}
	}
	return "", "", nil
}

// stranger gives the user, neither root nor uid, to whom a file, or the link to
// it, belongs; 0 is nobody.
func stranger(path string, uid int) (int, error) {
	for _, stat := range []func(string) (fs.FileInfo, error){os.Lstat, os.Stat} {
		info, err := stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if owner, known := ownerOf(info); known && owner != 0 && owner != uid {
			return owner, nil
		}
	}
	return 0, nil
}

// Another says whether a folder belongs to somebody else than uid and root.
func Another(dir string, uid int) bool {
	owner, err := stranger(dir, uid)
	return err == nil && owner != 0
}

func parts(dir string) []string {
	var out []string
	for _, p := range Parts {
		out = append(out, filepath.Join(dir, p))
	}
	return out
}

// private wants the state to be its user's alone.
func private(_ context.Context, o Options) Check {
	why, hint, err := Foreign(o.StateDir, o.UID())
	switch {
	case err != nil:
		return fail("export STRATA_HOME=/path/on/a/disk", "%v", err)
	case why != "":
		return fail(hint, "%s", why)
	}
	info, err := os.Stat(o.StateDir)
	if err != nil {
		return ok("%q is not made yet; only its user will enter it", o.StateDir)
	}
	if info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return warn("chmod go-w "+o.StateDir, "others may write to %q (%v)", o.StateDir, info.Mode().Perm())
	}
	if info.Mode()&0o077 != 0 {
		for _, p := range parts(o.StateDir) {
			if info, err := os.Stat(p); err == nil && info.Mode()&0o077 != 0 {
				return warn("chmod 700 "+p, "others may enter %q (%v)", p, info.Mode().Perm())
			}
		}
	}
	return ok("only its user enters %q", o.StateDir)
}
