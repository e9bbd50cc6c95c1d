package buildkit

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/strata-build/strata/internal/build"
)

// contextFS gives the context in dir to the engine, as the job that is being sent
// knows it by name. What the job's stamps name is given the time
// that they say. Of the rest: the engine keeps a copy and asks only for files
// whose size or time differ, which misses an edit that restores both, so the time
// carries a trace of the inode's change time, which no program can set, in its
// last 16 bits: 65 microseconds, less than a kernel tick. (A stamp carries one of
// the content.)
//
// A mark stands where a device would have its number. The engine hashes that of
// a file as well, and does nothing else with it; a marked file is sent each time.
func contextFS(s *sending, name, dir string) (fsutil.FS, error) {
	stamps, marks := s.job.Times.Stamps.At[name], s.job.Marks[name]
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	base, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	checked, err := s.from(name, root, base)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(checked, &fsutil.FilterOpt{
		Map: func(p string, st *types.Stat) fsutil.MapResult {
			if stamp, ok := stamps[filepath.ToSlash(p)]; ok {
				st.ModTime = stamp
			} else if fs.FileMode(st.Mode).IsRegular() {
				st.ModTime = withTrace(st.ModTime, filepath.Join(root, p))
			}
			if m, ok := marks[filepath.ToSlash(p)]; ok && fs.FileMode(st.Mode)&(fs.ModeType&^fs.ModeSymlink) == 0 {
				st.Devmajor, st.Devminor = int64(m>>32)|1<<32, int64(m&0xffffffff)
			}
			return fsutil.MapResultKeep
		},
	})
}

// textFS is a flat folder in memory. It implements fsutil.FS.
type textFS map[string][]byte

// dockerfileFS gives the engine the Dockerfile's text and the ignore file that
// belongs to it, if there is one.
func dockerfileFS(j build.Job) fsutil.FS {
	name := path.Base(dockerfileName(j))
	text := textFS{name: withoutStages(j.Dockerfile, j.Contexts)}
	if j.Ignore != nil {
		text[name+".dockerignore"] = j.Ignore
	}
	return text
}

// ownSyntax gives the frontend that text asks for with "# syntax=", when it is
// the one that is built in: fetching docker/dockerfile again would need Docker
// Hub for every build. Other frontends are left to BuildKit.
func ownSyntax(text []byte) (ref string, ok bool) {
	ref, _, _, ok = parser.DetectSyntax(text)
	name, _, _ := strings.Cut(ref, "@")
	name = strings.TrimPrefix(name, "docker.io/")
	return ref, ok && (name == "docker/dockerfile" || strings.HasPrefix(name, "docker/dockerfile:1"))
}

// Walk visits the files below target, in order.
func (t textFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	target = strings.Trim(filepath.Clean("/"+target), "/")
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if target != "" && target != name {
			continue
		}
		if err := fn(name, &fsutil.DirEntryInfo{Stat: t.stat(name)}, nil); err != nil {
			if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
				return nil
			}
			return err
		}
	}
	return nil
}

// stat gives a time that follows from the text, so that unequal texts of equal
// size are told apart.
func (t textFS) stat(name string) *types.Stat {
	h := fnv.New64a()
	h.Write(t[name])
	return &types.Stat{
		Path: name, Mode: 0o644, Size: int64(len(t[name])), ModTime: int64(h.Sum64() >> 2),
	}
}

// Open opens one of the files.
func (t textFS) Open(name string) (io.ReadCloser, error) {
	data, ok := t[strings.Trim(filepath.Clean("/"+name), "/")]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
