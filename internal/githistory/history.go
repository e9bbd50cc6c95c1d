package githistory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// Range says which commits are read: those of the first-parent line that ends
// in a revision.
type Range struct {
	// Rev is a branch, tag or commit ("" is HEAD), or FROM..TO: the commits after
	// FROM up to TO.
	Rev string
	// Commits bounds how many are read; 0 means no bound.
	Commits int
	// Within is how long before the last commit the first one may be; 0 means no
	// bound.
	Within time.Duration
}

// Commit is one commit of a history. It is immutable.
type Commit struct {
	ID      string
	Time    time.Time // the committer's, in UTC
	Subject string
	Merge   bool
	Changes []Change // against the first parent, sorted; nil for the first of a history
	Tree    *Tree
}

// History is what a range holds.
type History struct {
	Commits  []Commit // the oldest first
	Prefix   string   // folder of the project from the repository's root, "." for the root
	Line     string   // what was asked for, or the branch that is checked out; "" when there is none
	Shallow  bool     // older commits are not in this clone
	Older    int      // commits of the same line that the bounds leave out
	Unsorted int      // commits that claim to be older than their parent

	Submodules int // submodules in the last commit
	Attributes int // rules in .gitattributes of the last commit that change contents on checkout

	repo  *git.Repo
	store *store
}

// Read reads a range of the history of the repository that holds dir. The
// history must be closed; its trees read through it until then.
func Read(ctx context.Context, m git.Machine, dir string, r Range) (*History, error) {
	repo, err := m.Open(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("reading the git history of %q: %w", dir, explain(dir, err))
	}
	h := &History{repo: repo, store: newStore(ctx, repo)}
	if err := h.read(ctx, r); err != nil {
		_ = h.Close() // the first error counts
		return nil, fmt.Errorf("reading the git history of %q: %w", dir, explain(dir, err))
	}
	return h, nil
}

// Close ends the process that contents are read through.
func (h *History) Close() error { return errors.Join(h.store.close(), h.repo.Close()) }

// Err says why no further content can be read, or nil.
func (h *History) Err() error {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	return h.store.broken
}

// Pointers counts the contents read so far that are pointers of git's large
// file storage. The digest of what they point to is known all the same.
func (h *History) Pointers() int {
	n := 0
	for _, b := range h.store.blobs {
		if b.lfs {
			n++
		}
	}
	return n
}

// Holds says for each commit whether the repository has it.
func (h *History) Holds(ids []string) (map[string]bool, error) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	out := map[string]bool{}
	var want []*Blob
	for _, id := range ids {
		if len(id) == 40 || len(id) == 64 {
			want = append(want, &Blob{ID: id})
		}
	}
	err := h.store.ask(want, func(b *Blob, size int64) error {
		out[b.ID] = true
		_, err := io.CopyN(io.Discard, h.store.out, size)
		return err
	})
	return out, err
}

func (h *History) read(ctx context.Context, r Range) error {
	out, err := h.repo.Output(ctx, "rev-parse", "--is-shallow-repository", "--show-prefix")
	if err != nil {
		return err
	}
	shallow, prefix, _ := strings.Cut(out, "\n")
	h.Shallow, h.Prefix = shallow == "true", clean(prefix)
	h.Line = r.Rev
	if branch, err := h.repo.Output(ctx, "symbolic-ref", "--quiet", "--short", "HEAD"); err == nil && r.Rev == "" {
		h.Line = branch
	}
	from, to, err := ends(ctx, h.repo, r.Rev)
	if err != nil {
		return err
	}
	n, err := h.bound(ctx, r, from, to)
	if err != nil {
		return err
	}
	if err := h.log(ctx, from, to, n); err != nil {
		return err
	}
	if len(h.Commits) == 0 {
		return diag.Hint(fmt.Errorf("%w: the range %q has no commit", ErrNoGit, r.Rev), "name a branch, a commit, or FROM..TO")
	}
	if err := h.trees(ctx); err != nil {
		return err
	}
	return h.remarks()
}

// ends gives the commits that a range names; from is "" where it has no lower
// end.
func ends(ctx context.Context, repo *git.Repo, rev string) (from, to string, err error) {
	if rev == "" {
		rev = "HEAD"
	}
	from, to, isRange := strings.Cut(rev, "..")
	if !isRange {
		from, to = "", rev
	}
	resolve := func(name string) (string, error) {
		id, err := repo.Output(ctx, "rev-parse", "--verify", "--end-of-options", name+"^{commit}")
		if errors.Is(err, git.ErrMissing) || errors.Is(err, git.ErrNoCommit) || ctx.Err() != nil {
			return "", err
		}
		if err != nil {
			return "", diag.Hint(fmt.Errorf("there is no commit %q in this clone", name), "git fetch, if it should be there")
		}
		return id, nil
	}
	if isRange {
		if to == "" {
			to = "HEAD"
		}
		if from, err = resolve(from); err != nil {
			return "", "", err
		}
	}
	to, err = resolve(to)
	return from, to, err
}

// bound counts the commits of a range that its bounds let in. It reads no more
// of the history than it has to.
func (h *History) bound(ctx context.Context, r Range, from, to string) (int, error) {
	args := []string{"log", "--first-parent", "--format=%ct", to}
	if from != "" {
		args = append(args, "^"+from)
	}
	n, in := 0, true
	var last time.Time
	err := stream(ctx, h.repo, func(out *bufio.Reader) error {
		for {
			line, err := out.ReadString('\n')
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			t, err := unix(strings.TrimSpace(line))
			if err != nil {
				return err
			}
			if last.IsZero() {
				last = t
			}
			in = in && (r.Commits == 0 || n < r.Commits) && (r.Within == 0 || last.Sub(t) <= r.Within)
			if in {
				n++
			} else {
				h.Older++
			}
		}
	}, append(args, "--")...)
	return n, err
}

func unix(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the time of a commit: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}

// header starts a commit in what log is asked to write; no path starts so.
const header = "\x02"

// log reads the newest n commits of a range, each with what it changed.
func (h *History) log(ctx context.Context, from, to string, n int) error {
	if n == 0 {
		return nil
	}
	args := []string{"log", "--first-parent", "-m", "--reverse", "--max-count=" + strconv.Itoa(n), "--raw", "-z", "--no-abbrev",
		"--no-renames", "--no-color", "--no-show-signature", "--no-ext-diff", "--ignore-submodules=none", "--format=" + header + "%H %ct %P%n%s", to}
	if from != "" {
		args = append(args, "^"+from)
	}
	return stream(ctx, h.repo, func(out *bufio.Reader) error {
		r := rawReader{out: out}
		for {
			token, err := r.token()
			if err == io.EOF {
				return nil
			}
			if err == nil && len(token) > 0 {
				err = h.add(&r, string(token))
			}
			if err != nil {
				return fmt.Errorf("reading git log: %w", err)
			}
		}
	}, append(args, "--")...)
}

// rawReader reads what stands between NULs.
type rawReader struct {
	out *bufio.Reader
	buf []byte
}

// token gives the next text; it is valid until the next call.
func (r *rawReader) token() ([]byte, error) {
	r.buf = r.buf[:0]
	for {
		part, err := r.out.ReadSlice(0)
		r.buf = append(r.buf, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(r.buf) > 0 {
			return r.buf, nil
		}
		if err != nil {
			return nil, err
		}
		return r.buf[:len(r.buf)-1], nil
	}
}

// add takes one text of the log: a commit's header, or a change and its path.
func (h *History) add(r *rawReader, token string) error {
	if head, ok := strings.CutPrefix(token, header); ok {
		return h.addCommit(head)
	}
	raw, ok := strings.CutPrefix(strings.TrimPrefix(token, "\n"), ":")
	fields := strings.Fields(raw)
	if !ok || len(fields) != 5 || len(h.Commits) == 0 {
		return fmt.Errorf("%q is no change", token)
	}
	var c Change
	for i, mode := range []*uint32{&c.OldMode, &c.Mode} {
		n, err := strconv.ParseUint(fields[i], 8, 32)
		if err != nil {
			return fmt.Errorf("%q is no change", token)
		}
		*mode = uint32(n)
	}
	if c.Mode != 0 {
		c.blob = h.store.blob([]byte(fields[3]))
	}
	path, err := r.token()
	if err != nil {
		return err
	}
	c.Path = string(path)
	last := &h.Commits[len(h.Commits)-1]
	last.Changes = append(last.Changes, c)
	return nil
}

func (h *History) addCommit(head string) error {
	line, subject, _ := strings.Cut(head, "\n")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return fmt.Errorf("%q is no commit", head)
	}
	t, err := unix(fields[1])
	if err != nil {
		return err
	}
	c := Commit{ID: fields[0], Time: t, Subject: strings.ToValidUTF8(subject, "\uFFFD"), Merge: len(fields) > 3}
	if n := len(h.Commits); n > 0 && t.Before(h.Commits[n-1].Time) {
		h.Unsorted++
		c.Time = h.Commits[n-1].Time // time does not run backwards in a replay
	}
	h.Commits = append(h.Commits, c)
	return nil
}

// trees gives every commit its tree: that of the first as git lists it, each
// other from the one before and what changed.
func (h *History) trees(ctx context.Context) error {
	var all []Change
	first := &h.Commits[0]
	err := stream(ctx, h.repo, func(out *bufio.Reader) error {
		r := rawReader{out: out}
		for {
			token, err := r.token()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			meta, path, ok := strings.Cut(string(token), "\t")
			fields := strings.Fields(meta)
			if !ok || len(fields) != 3 {
				return fmt.Errorf("reading git ls-tree: %q is no entry", token)
			}
			mode, err := strconv.ParseUint(fields[0], 8, 32)
			if err != nil {
				return fmt.Errorf("reading git ls-tree: %q is no entry", token)
			}
			all = append(all, Change{Path: path, Mode: uint32(mode), blob: h.store.blob([]byte(fields[2]))})
		}
	}, "ls-tree", "-r", "-z", "--full-tree", first.ID)
	if err != nil {
		return err
	}
	sortChanges(all)
	root := (*folder)(nil).apply(all, 0)
	first.Changes = nil
	for i := range h.Commits {
		c := &h.Commits[i]
		if root == nil {
			root = &folder{}
		}
		if len(c.Changes) > 0 {
			sortChanges(c.Changes)
			if root = root.apply(c.Changes, 0); root == nil {
				root = &folder{}
			}
		}
		c.Tree = &Tree{root: root, store: h.store}
	}
	return nil
}

// remarks looks at the last tree for what a checkout does that is not in it.
func (h *History) remarks() error {
	return h.look(h.Commits[len(h.Commits)-1].Tree.root)
}

// converting are the attributes that let a checkout write other bytes than git
// holds. Large files are dealt with by themselves.
var converting = []string{"eol=crlf", "working-tree-encoding=", "ident", "filter="}

func (h *History) look(f *folder) error {
	for _, e := range f.entries {
		switch {
		case e.dir != nil:
			if _, ok := e.dir.find(submoduleFile); ok && len(e.dir.entries) == 1 {
				h.Submodules++
			}
			if err := h.look(e.dir); err != nil {
				return err
			}
		case e.name == ".gitattributes" && e.mode != modeLink:
			data, err := h.store.read(e.blob)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(data)) {
				if converts(line) {
					h.Attributes++
				}
			}
		}
	}
	return nil
}

func converts(line string) bool {
	fields := strings.Fields(line)
	if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
		return false
	}
	for _, f := range fields[1:] {
		for _, c := range converting {
			if (f == c || strings.HasSuffix(c, "=") && strings.HasPrefix(f, c)) && f != "filter=lfs" {
				return true
			}
		}
	}
	return false
}
