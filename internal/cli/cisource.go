package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/hostfile"
)

// mostLinks is how many links one path may lead through.
const mostLinks = 40

// links gives the symbolic links on the way to what a path or pattern names, and
// where they lead, relative to dir, slashes.
func links(root, dir, rel string) []string {
	found, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(rel)))
	if err != nil {
		return nil
	}
	var out []string
	for _, file := range found {
		for _, to := range resolve(root, dir, file) {
			if !slices.Contains(out, to) {
				out = append(out, to)
			}
		}
	}
	return out
}

// resolve walks to a file, and gives each link that it goes through and, where
// there was any, the file's own place. It goes no further than to the edge of the
// repository.
func resolve(root, dir, file string) []string {
	rel, err := filepath.Rel(dir, file)
	if err != nil {
		return nil
	}
	var out []string
	at, todo := dir, strings.Split(filepath.ToSlash(rel), "/")
	place := func() {
		if rel, err := filepath.Rel(dir, at); err == nil && rel != "." {
			out = append(out, filepath.ToSlash(rel))
		}
	}
	followed := 0
	for len(todo) > 0 && followed < mostLinks {
		at = filepath.Join(at, todo[0])
		if out, err := filepath.Rel(root, at); err != nil || out == ".." || strings.HasPrefix(out, ".."+string(filepath.Separator)) {
			return nil // no change of the repository reaches what is there
		}
		todo = todo[1:]
		to, err := os.Readlink(at)
		if err != nil {
			continue // no link
		}
		followed++
		place()
		if filepath.IsAbs(to) { // of the context, as builds see it
			at = dir
		} else {
			at = filepath.Dir(at)
		}
		todo = slices.Concat(strings.Split(filepath.ToSlash(to), "/"), todo)
	}
	if followed > 0 {
		place()
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// usesLFS says whether the attributes between the repository's top and the
// project's folder give files to git LFS.
func usesLFS(root, dir string) bool {
	for at := dir; ; at = filepath.Dir(at) {
		data, err := hostfile.Read(filepath.Join(at, ".gitattributes"), hostfile.MaxText)
		if err == nil && bytes.Contains(data, []byte("filter=lfs")) {
			return true
		}
		if at == root || at == filepath.Dir(at) {
			return false
		}
	}
}
