package source

import (
	stdcmp "cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// What COPY takes is held against the parts that BuildKit itself is made of:
// fsutil's transfer with the ignore patterns, then fsutil's copy with the
// options of a COPY instruction.

// pipe is one end of an in-memory transfer.
type pipe struct {
	ctx context.Context
	in  <-chan *types.Packet
	out chan<- *types.Packet
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) SendMsg(m any) error {
	pkt := m.(*types.Packet).CloneVT()
	select {
	case p.out <- pkt:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) RecvMsg(m any) error {
	select {
	case pkt, ok := <-p.in:
		if !ok {
			return io.EOF
		}
		dst := m.(*types.Packet)
		dst.Type, dst.Stat, dst.ID, dst.Data = pkt.Type, pkt.Stat, pkt.ID, pkt.Data
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// transfer sends a context as the client does and gives the received folder.
func transfer(t testing.TB, dir string, ignore []string) string {
	t.Helper()
	dest := t.TempDir()
	patterns, err := ignorefile.ReadAll(strings.NewReader(strings.Join(ignore, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	src, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if src, err = fsutil.NewFilterFS(src, &fsutil.FilterOpt{ExcludePatterns: patterns}); err != nil {
		t.Fatal(err)
	}
	g, ctx := errgroup.WithContext(t.Context())
	there, back := make(chan *types.Packet, 64), make(chan *types.Packet, 64)
	g.Go(func() error {
		defer close(there)
		return fsutil.Send(ctx, &pipe{ctx, back, there}, src, nil)
	})
	g.Go(func() error {
		return fsutil.Receive(ctx, &pipe{ctx, there, back}, dest, fsutil.ReceiveOpt{})
	})
	if err := g.Wait(); err != nil {
		t.Fatalf("transferring %s: %v", dir, err)
	}
	return dest
}

// buildkitCopy copies as a COPY instruction does: one fscopy.Copy for each
// match of each source, into the existing folder dest.
func buildkitCopy(received, dest string, s Selection) error {
	for _, p := range s.Patterns {
		src, include, required := p, []string(nil), ""
		if s.Parents {
			parent, pattern, ok := strings.Cut(p, "/./")
			if !ok {
				parent, pattern = "/", p
			}
			src, include = parent, []string{strings.TrimPrefix(path.Join("/", pattern), "/")}
			if !strings.ContainsAny(parent+pattern, "*?[") {
				required = path.Join("/", parent, pattern)
			}
		}
		matches, err := fscopy.ResolveWildcards(received, path.Join("/", src), true)
		if err != nil {
			return err
		}
		before := listing(dest)
		for _, m := range matches {
			err := fscopy.Copy(context.Background(), received, m, dest, "/", fscopy.WithCopyInfo(fscopy.CopyInfo{
				IncludePatterns: include, ExcludePatterns: s.Excludes, CopyDirContents: true, FollowLinks: true,
			}))
			if err != nil {
				return err
			}
		}
		if required != "" && cmp.Equal(before, listing(dest)) {
			return fmt.Errorf("%q not found", required)
		}
	}
	return nil
}

// listing describes each path below dir in one line.
func listing(dir string) map[string]string {
	out := map[string]string{}
	inodes := map[uint64]string{}
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fi, _ := os.Lstat(p)
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %o", fi.Mode().Type(), st.Mode&0o7777)
		switch {
		case fi.Mode().IsRegular():
			data, _ := os.ReadFile(p)
			line += " " + digest.FromBytes(data).Encoded()[:12]
			if first, ok := inodes[st.Ino]; ok {
				line += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		case fi.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			line += " -> " + target
		}
		out[rel] = line
		return nil
	})
	return out
}

// place puts entries where a COPY into an existing folder puts them, and
// describes the result like listing.
func place(t *testing.T, tree *Tree, entries []Entry) map[string]string {
	t.Helper()
	order := slices.Clone(entries)
	slices.SortStableFunc(order, func(a, b Entry) int { return a.Index - b.Index })
	out := map[string]string{}
	types := map[Kind]fs.FileMode{Dir: fs.ModeDir, Symlink: fs.ModeSymlink, FIFO: fs.ModeNamedPipe}
	inode := map[string]string{}
	for _, e := range order {
		at := e.Rel
		if !e.MatchDir {
			at = path.Base(e.Match)
		} else if at == "" {
			continue
		}
		line := fmt.Sprintf("%v %o", types[e.Kind], e.Mode)
		delete(inode, at)
		switch e.Kind {
		case File:
			line += " " + e.Digest.Encoded()[:12]
			inode[at] = fmt.Sprint(e.Index, " ", stdcmp.Or(e.HardlinkOf, e.Path))
			if got := contentOf(t, tree, e.Path); digest.FromString(got) != e.Digest || len(got) != int(e.Size) {
				t.Errorf("%s: %d bytes of content don't have the entry's digest, or its size %d", e.Path, len(got), e.Size)
			}
		case Symlink:
			line += " -> " + e.Link
		}
		out[at] = line
	}
	first := map[string]string{}
	for _, p := range slices.SortedFunc(maps.Keys(inode), func(a, b string) int {
		return strings.Compare(componentwise(a), componentwise(b))
	}) {
		if f, ok := first[inode[p]]; ok {
			out[p] += " = " + f
		} else {
			first[inode[p]] = p
		}
	}
	return out
}

// componentwise makes strings compare as a walk orders paths.
func componentwise(p string) string { return strings.ReplaceAll(p, "/", "\x00") }

func contentOf(t *testing.T, tree *Tree, p string) string {
	t.Helper()
	f, err := tree.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// same checks one selection against BuildKit: both fail, or both give the same
// files.
func same(t *testing.T, dir, received string, ignore []string, s Selection) {
	t.Helper()
	tree, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, gotErr := tree.Select(t.Context(), s)
	dest := t.TempDir()
	wantErr := buildkitCopy(received, dest, s)
	if (gotErr == nil) != (wantErr == nil) {
		t.Errorf("%+v with ignore %q:\n got error %v\nBuildKit's %v", s, ignore, gotErr, wantErr)
	}
	if gotErr != nil || wantErr != nil {
		return
	}
	if diff := cmp.Diff(listing(dest), place(t, tree, got)); diff != "" {
		t.Errorf("%+v with ignore %q (-BuildKit +got):\n%s", s, ignore, diff)
	}
}
