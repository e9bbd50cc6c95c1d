package strata

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/strata-build/strata/internal/graph"
	"github.com/strata-build/strata/internal/source"
)

// BuildKit's own cache takes two sources of a COPY or of a bind mount for the
// same that the key tells apart and that it would copy differently: it hashes
// the names of the folders in them but not their modes, and a hard link as the
// file that it links to. (Where a source has patterns it hashes folders, too,
// but as they were when they came to the engine first.) So what it can't see is hashed here and given to it as
// the mark of one of the files (see build.Job.Marks), which it does see.

// plainMode is that of most folders, which need no mark.
const plainMode = 0o755

// taking is what one source of an instruction takes.
type taking struct {
	context string
	entries []source.Entry
	folders int // that show in the result
}

// marks gives the marks for an engine that builds a unit, or only its trunk. A
// source that consists of folders alone has no file to mark: then blind says that
// the engine must not use its cache.
func (p *Pass) marks(u *graph.Unit, trunk bool) (marks map[string]map[string]uint64, blind bool) {
	all := p.takings(u, trunk)
	uses := map[[2]string]int{}
	for _, t := range all {
		for _, e := range t.entries {
			uses[[2]string{t.context, realPath(e)}]++
		}
	}
	sums := map[[2]string]hash.Hash{}
	for _, t := range all {
		unseen := t.unseen()
		carrier, ok := t.carrier(func(e source.Entry) int { return uses[[2]string{t.context, realPath(e)}] })
		switch {
		case !ok:
			blind = blind || t.folders > 0
		case len(unseen) > 0:
			at := [2]string{t.context, carrier}
			if sums[at] == nil {
				sums[at] = sha256.New()
			}
			fmt.Fprintf(sums[at], "%d\n%s", len(unseen), strings.Join(unseen, ""))
		}
	}
	marks = map[string]map[string]uint64{}
	for at, h := range sums {
		if marks[at[0]] == nil {
			marks[at[0]] = map[string]uint64{}
		}
		marks[at[0]][at[1]] = binary.BigEndian.Uint64(h.Sum(nil))
	}
	return marks, blind
}

// takings gives what each source of a unit's instructions takes.
func (p *Pass) takings(u *graph.Unit, trunk bool) []taking {
	var out []taking
	for i, in := range u.Build.Inputs {
		if trunk && in.Tail {
			continue
		}
		bind := selection(in).Bind
		at := map[int]int{}
		for _, e := range p.inputs[u.ID].Files[i] {
			n, ok := at[e.Index]
			if !ok {
				n = len(out)
				at[e.Index] = n
				out = append(out, taking{context: in.Context})
			}
			t := &out[n]
			t.entries = append(t.entries, e)
			if e.Kind == source.Dir && (e.Rel != "" || bind && e.Path != ".") {
				t.folders++
			}
		}
	}
	return out
}

// unseen gives a line for all that BuildKit does not see, in the order of paths.
func (t taking) unseen() []string {
	var out []string
	for _, e := range t.entries {
		if e.Kind == source.Dir && (e.Mode != plainMode || len(e.Xattrs) > 0) {
			line := fmt.Sprintf("dir %q %o", e.Rel, e.Mode)
			for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
				line += " " + strconv.Quote(name) + " " + strconv.Quote(e.Xattrs[name])
			}
			out = append(out, line+"\n")
		}
		if e.HardlinkOf != "" {
			out = append(out, fmt.Sprintf("link %q %q\n", e.Rel, e.HardlinkOf))
		}
	}
	return out
}

// carrier picks the file that is marked: one that few other sources take, whose
// results would be made anew with this one's.
func (t taking) carrier(uses func(source.Entry) int) (path string, ok bool) {
	least := 0
	for _, e := range t.entries {
		if e.Kind != source.File && e.Kind != source.Symlink || e.HardlinkOf != "" {
			continue
		}
		if n := uses(e); !ok || n < least {
			path, least, ok = realPath(e), n, true
		}
	}
	return path, ok
}

func realPath(e source.Entry) string {
	return cmp.Or(e.Real, e.Path)
}
