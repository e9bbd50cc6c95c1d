package vcs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// changed is a path that is not what HEAD says, in the index or in the work tree.
type changed struct {
	path      string // from the top of the work tree
	submodule bool
}

// The modes of git's entries.
const (
	modeFile      = "100644"
	modeProgram   = "100755"
	modeSubmodule = "160000"
)

// changes gives what is changed among what is tracked. Not `describe --dirty`:
// that one writes the index. Git has no filters here, so a file of the large file
// storage, whose index has a pointer, looks changed as soon as git has to read it;
// it is not if it is what the pointer says.
func changes(ctx context.Context, r *git.Repo, args ...string) ([]changed, error) {
	out, err := r.Output(ctx, append([]string{"status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=no"}, args...)...)
	if err != nil {
		return nil, err
	}
	var all []changed
	var large pointers
	defer large.close()
	for line := range strings.SplitSeq(out, "\x00") {
		// 1 XY SUB MODE-HEAD MODE-INDEX MODE-TREE HASH-HEAD HASH-INDEX PATH, and two
		// modes and hashes more in a conflict (u). The path may have spaces.
		n := map[string]int{"1": 9, "u": 11}[line[:min(1, len(line))]]
		f := strings.SplitN(line, " ", n)
		if n == 0 || len(f) != n {
			continue
		}
		c := changed{path: f[n-1], submodule: strings.HasPrefix(f[2], "S")}
		if f[0] == "1" && f[1] == ".M" && f[4] == f[5] && (f[4] == modeFile || f[4] == modeProgram) {
			same, err := large.same(ctx, r, f[7], filepath.Join(r.Root(), filepath.FromSlash(c.path)))
			if err != nil {
				return nil, err
			}
			if same {
				continue
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// pointers reads blobs of the index.
type pointers struct {
	batch *git.Process
}

func (p *pointers) close() {
	if p.batch != nil {
		p.batch.Kill()
		_ = p.batch.Wait()
	}
}

// same says whether a blob is a pointer to what a file holds.
func (p *pointers) same(ctx context.Context, r *git.Repo, blob, file string) (bool, error) {
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		return false, nil // it changes while it is looked at
	}
	if p.batch == nil {
		if p.batch, err = r.Start(ctx, "cat-file", "--batch"); err != nil {
			return false, err
		}
	}
	data, err := p.read(blob)
	if err != nil {
		return false, fmt.Errorf("reading from git cat-file: %w", err)
	}
	want, size, ok := git.Pointer(data)
	if !ok || size != info.Size() {
		return false, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, nil
	}
	return hex.EncodeToString(h.Sum(nil)) == want, nil
}

// read gives a blob if it is small enough for a pointer.
func (p *pointers) read(blob string) ([]byte, error) {
	if _, err := fmt.Fprintln(p.batch.In, blob); err != nil {
		return nil, err
	}
	line, err := p.batch.Out.ReadString('\n') // "HASH blob SIZE", or "HASH missing"
	if err != nil {
		return nil, err
	}
	f := strings.Fields(line)
	if len(f) != 3 {
		return nil, nil
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return nil, err
	}
	if size >= git.MaxPointer {
		_, err := io.CopyN(io.Discard, p.batch.Out, size+1)
		return nil, err
	}
	data := make([]byte, size+1) // git ends it with a line break
	_, err = io.ReadFull(p.batch.Out, data)
	return data[:size], err
}

// isDirty says whether tracked files differ from the commit, those of submodules
// included. Git is not asked about the insides of submodules: it would start
// itself there, and do what their config says.
func isDirty(ctx context.Context, m git.Machine, r *git.Repo) (bool, error) {
	ignored, err := ignoredSubmodules(ctx, r)
	if err != nil {
		return false, err
	}
	all, err := changes(ctx, r, "--ignore-submodules=dirty")
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if !c.submodule || ignored[c.path] != "all" {
			return true, nil
		}
	}
	subs, err := submodules(ctx, r)
	if err != nil {
		return false, err
	}
	for _, sub := range subs {
		if i := ignored[sub]; i == "all" || i == "dirty" {
			continue
		}
		dirty, err := isDirtyBelow(ctx, m, filepath.Join(r.Root(), filepath.FromSlash(sub)))
		if err != nil {
			return false, fmt.Errorf("looking into the submodule %q: %w", sub, err)
		}
		if dirty {
			return true, nil
		}
	}
	return false, nil
}

// isDirtyBelow looks into a submodule; one that is not checked out is not changed.
func isDirtyBelow(ctx context.Context, m git.Machine, dir string) (bool, error) {
	if _, err := os.Lstat(filepath.Join(dir, ".git")); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	r, err := m.Open(ctx, dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = diag.Hint(err, "git submodule update --init")
		}
		return false, err
	}
	defer r.Close()
	if r.Root() != dir { // an empty .git, or a link on the way: it is no submodule
		return false, nil
	}
	return isDirty(ctx, m, r)
}

// submodules gives the paths of the submodules that the index has.
func submodules(ctx context.Context, r *git.Repo) ([]string, error) {
	var subs []string
	err := r.Top().Stream(ctx, func(out *bufio.Reader) (bool, error) {
		for {
			entry, err := out.ReadString(0) // "MODE HASH STAGE\tPATH"
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("reading git ls-files: %w", err)
			}
			head, p, ok := strings.Cut(strings.TrimSuffix(entry, "\x00"), "\t")
			if ok && strings.HasPrefix(head, modeSubmodule) && path.Clean(p) == p && filepath.IsLocal(filepath.FromSlash(p)) {
				subs = append(subs, p)
			}
		}
	}, "ls-files", "-z", "--stage")
	return subs, err
}

// ignoredSubmodules gives what .gitmodules says of changes in submodules, by path:
// "all", "dirty", ...
func ignoredSubmodules(ctx context.Context, r *git.Repo) (map[string]string, error) {
	file := filepath.Join(r.Root(), ".gitmodules")
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	out, err := r.Output(ctx, "config", "--file", file, "--no-includes", "--list", "-z")
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", file, err)
	}
	paths, ignores := map[string]string{}, map[string]string{}
	for s := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(s, "\n")
		if name, ok := strings.CutSuffix(key, ".path"); ok {
			paths[name] = value
		} else if name, ok := strings.CutSuffix(key, ".ignore"); ok {
			ignores[name] = value
		}
	}
	byPath := map[string]string{}
	for name, value := range ignores {
		byPath[paths[name]] = value
	}
	return byPath, nil
}
