package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
)

// ErrInUse is what errors.Is finds when garbage cannot be collected because
// another process has the folder open.
var ErrInUse = errors.New("in use by another process")

// GCOptions say what is garbage. The zero value keeps every tag and whatever
// was written within the last hour.
type GCOptions struct {
	// Keep says whether a tag stays; nil keeps all. It is not asked for tags
	// that list attachments: these stay as long as their subject does.
	Keep func(TagInfo) bool
	// Hold are manifests that stay, with all that they name, although no tag
	// leads to them; in any repository.
	Hold map[digest.Digest]bool
	// MinAge protects what no tag leads to, such as an upload whose manifest
	// is still to come; 0 is one hour, negative is nothing.
	MinAge time.Duration
	// Wait is how long to wait for other processes; 0 gives up at once.
	Wait time.Duration
	// Idle says that this process is in the middle of no upload. Nobody is, then,
	// while the folder is held alone: what a killed process had not finished goes
	// at once. MinAge is for manifests and tags only.
	Idle bool
	// Alone is called while the folder is held alone; nil is nothing.
	Alone func() error
	// DryRun only counts.
	DryRun bool
}

// GCResult counts what was removed, or would be.
type GCResult struct {
	Tags      int   `json:"tags"`
	Manifests int   `json:"manifests"`
	Blobs     int   `json:"blobs"` // manifests' bodies included
	Uploads   int   `json:"uploads"`
	Freed     int64 `json:"freed"` // bytes
}

// GC removes what no tag leads to. It needs the folder for itself, and holds the
// requests of this process back; it waits for blobs that are being read. It
// deletes from the outside in, tags before manifests
// before blobs, so that a crash leaves garbage and never a tag that leads
// nowhere.
func (e *Embedded) GC(ctx context.Context, o GCOptions) (GCResult, error) {
	var r GCResult
	e.serving.Lock()
	defer e.serving.Unlock()
	unlock, err := e.lockAlone(ctx, o.Wait)
	if err != nil {
		return r, fmt.Errorf("collecting garbage in %q: %w", e.dir, err)
	}
	defer unlock()
	if o.MinAge == 0 {
		o.MinAge = time.Hour
	}
	s := &sweep{dir: e.dir, options: o, before: time.Now().Add(-o.MinAge), live: map[digest.Digest]bool{}, result: &r}
	s.underWay = s.before
	if o.Idle {
		s.underWay = time.Now().Add(aheadOfClock)
	}
	err = s.run(ctx)
	if o.Alone != nil {
		err = errors.Join(err, o.Alone())
	}
	if err != nil {
		return r, fmt.Errorf("collecting garbage in %q: %w", e.dir, err)
	}
	return r, nil
}

// lockAlone gives the shared lock up and takes an exclusive one in its place,
// until unlock. In between another collection may run: like this one, it
// leaves alone what is younger than an hour and what tags lead to.
func (e *Embedded) lockAlone(ctx context.Context, wait time.Duration) (unlock func(), err error) {
	share := func() {
		e.lock.Unlock()
		e.lock.RLock()
	}
	if err := e.lock.Unlock(); err != nil {
		return nil, err
	}
	ok, err := e.lock.TryLock()
	if !ok && err == nil && wait > 0 {
		ctx, stop := context.WithTimeout(ctx, wait)
		defer stop()
		ok, err = e.lock.TryLockContext(ctx, 20*time.Millisecond)
	}
	if ok {
		return share, nil
	}
	share()
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		err = diag.Hint(ErrInUse, "try again when the other strata process is done")
	}
	return nil, err
}

// aheadOfClock is how far in the future a file's time may lie where no time
// counts: a clock that was set back leaves such.
const aheadOfClock = 100 * 365 * 24 * time.Hour

// sweep is one collection.
type sweep struct {
	dir      string
	options  GCOptions
	before   time.Time              // manifests and tags that are younger stay
	underWay time.Time              // so do uploads and blobs that are younger than this
	live     map[digest.Digest]bool // blobs that some repository needs
	result   *GCResult
}

// repoState is what one repository holds and what of it is needed.
type repoState struct {
	name      string
	manifests map[digest.Digest]time.Time
	layers    map[digest.Digest]time.Time
	needed    map[digest.Digest]bool // manifests and blobs that tags lead to
	dropTags  []TagInfo
}

func (s *sweep) run(ctx context.Context) error {
	names, err := repositories(s.dir)
	if err != nil {
		return err
	}
	var repos []*repoState
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := s.mark(name)
		if err != nil {
			return fmt.Errorf("reading repository %q: %w", name, err)
		}
		repos = append(repos, r)
	}
	for _, drop := range []func(*repoState) error{s.dropTags, s.dropManifests, s.dropLayers, s.dropUploads, s.dropEmpty} {
		for _, r := range repos {
			if err := drop(r); err != nil {
				return err
			}
		}
	}
	if err := s.dropBlobs(ctx); err != nil {
		return err
	}
	return s.dropHalfWritten()
}

// mark finds out what the tags of a repository lead to. Lists of attachments
// count once their subject is needed, which may be an attachment itself.
func (s *sweep) mark(name string) (*repoState, error) {
	r := &repoState{name: name, needed: map[digest.Digest]bool{}}
	var err error
	if r.manifests, err = links(repoDir(s.dir, name, "_manifests", "revisions")); err != nil {
		return nil, err
	}
	if r.layers, err = links(repoDir(s.dir, name, "_layers")); err != nil {
		return nil, err
	}
	tags, err := tagsOf(s.dir, name)
	if err != nil {
		return nil, err
	}
	attached := map[digest.Digest]TagInfo{}
	for _, t := range tags {
		subject, ok := t.Attachment()
		switch {
		case ok:
			attached[subject] = t
		case s.options.Keep == nil || s.options.Keep(t):
			s.need(r, t.Digest)
		default:
			r.dropTags = append(r.dropTags, t)
		}
	}
	for d, at := range r.manifests {
		if at.After(s.before) || s.options.Hold[d] {
			s.need(r, d)
		}
	}
	for again := true; again; {
		again = false
		for subject, t := range attached {
			if r.needed[subject] {
				s.need(r, t.Digest)
				delete(attached, subject)
				again = true
			}
		}
	}
	for _, t := range attached {
		r.dropTags = append(r.dropTags, t)
	}
	for d, at := range r.layers {
		if at.After(s.underWay) {
			r.needed[d] = true
		}
	}
	for d := range r.needed {
		s.live[d] = true
	}
	return r, nil
}

// need marks a manifest and everything that it names. The subject of an
// attachment is not among that: an attachment keeps no image alive.
func (s *sweep) need(r *repoState, d digest.Digest) {
	if r.needed[d] {
		return
	}
	r.needed[d] = true
	body, err := os.ReadFile(filepath.Join(blobDir(s.dir, d), "data"))
	if err != nil {
		return // named but not here: another repository's, or broken before
	}
	var m struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if json.Unmarshal(body, &m) != nil {
		return
	}
	if m.Config != nil {
		r.needed[m.Config.Digest] = true
	}
	for _, l := range m.Layers {
		r.needed[l.Digest] = true
	}
	for _, child := range m.Manifests {
		s.need(r, child.Digest)
	}
}

func (s *sweep) remove(path string) error {
	if s.options.DryRun {
		return nil
	}
	return os.RemoveAll(path)
}

func (s *sweep) dropTags(r *repoState) error {
	for _, t := range r.dropTags {
		if err := s.remove(repoDir(s.dir, r.name, "_manifests", "tags", t.Ref.Tag)); err != nil {
			return err
		}
		s.result.Tags++
	}
	return s.dropBroken(r)
}

// dropBroken removes what is left of tags whose deletion a crash has cut: folders
// that no longer say where the tag points.
func (s *sweep) dropBroken(r *repoState) error {
	root := repoDir(s.dir, r.name, "_manifests", "tags")
	entries, err := os.ReadDir(root)
	if err != nil {
		return gone(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.ModTime().After(s.before) {
			continue
		}
		if d, _, err := readLink(filepath.Join(root, entry.Name(), "current", "link")); err != nil || d != "" {
			continue
		}
		if err := s.remove(filepath.Join(root, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *sweep) dropManifests(r *repoState) error {
	for d := range r.manifests {
		if r.needed[d] {
			continue
		}
		if err := s.remove(linkDir(repoDir(s.dir, r.name, "_manifests", "revisions"), d)); err != nil {
			return err
		}
		s.result.Manifests++
	}
	return nil
}

func (s *sweep) dropLayers(r *repoState) error {
	for d := range r.layers {
		if r.needed[d] {
			continue
		}
		if err := s.remove(linkDir(repoDir(s.dir, r.name, "_layers"), d)); err != nil {
			return err
		}
	}
	return nil
}

// dropUploads removes uploads that nobody has gone on with.
func (s *sweep) dropUploads(r *repoState) error {
	root := repoDir(s.dir, r.name, "_uploads")
	entries, err := os.ReadDir(root)
	if err != nil {
		return gone(err)
	}
	for _, entry := range entries {
		data := filepath.Join(root, entry.Name(), "data")
		info, err := os.Stat(data)
		if err != nil {
			if info, err = entry.Info(); err != nil {
				continue
			}
		}
		if info.ModTime().After(s.underWay) {
			continue
		}
		if !info.IsDir() {
			s.result.Freed += info.Size()
		}
		s.result.Uploads++
		if err := s.remove(filepath.Join(root, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// dropEmpty removes a repository in which nothing is left, and the folders of
// its name that hold no other one.
func (s *sweep) dropEmpty(r *repoState) error {
	uploads, err := os.ReadDir(repoDir(s.dir, r.name, "_uploads"))
	if gone(err) != nil || s.options.DryRun || len(r.needed) > 0 || len(uploads) > 0 {
		return gone(err)
	}
	for _, part := range []string{"_manifests", "_layers", "_uploads"} {
		if err := os.RemoveAll(repoDir(s.dir, r.name, part)); err != nil {
			return err
		}
	}
	for name := r.name; name != "."; name = path.Dir(name) {
		if os.Remove(repoDir(s.dir, name)) != nil { // not empty
			break
		}
	}
	return nil
}

// dropBlobs removes the content that no repository needs.
func (s *sweep) dropBlobs(ctx context.Context) error {
	files, err := filepath.Glob(filepath.Join(s.dir, blobsDir, "*", "*", "*", "data"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		hexDir := filepath.Dir(file)
		algorithm := filepath.Base(filepath.Dir(filepath.Dir(hexDir)))
		info, err := os.Stat(file)
		if err != nil || s.live[digest.Digest(algorithm+":"+filepath.Base(hexDir))] || info.ModTime().After(s.underWay) {
			continue
		}
		if err := s.remove(hexDir); err != nil {
			return err
		}
		s.result.Blobs++
		s.result.Freed += info.Size()
	}
	return nil
}

// dropHalfWritten removes the files under which distribution writes what it
// renames once it is whole: NAME.UUID.tmp.
func (s *sweep) dropHalfWritten() error {
	return filepath.WalkDir(filepath.Join(s.dir, "docker"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if d.IsDir() || filepath.Ext(p) != ".tmp" {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.ModTime().After(s.underWay) {
			return gone(err)
		}
		s.result.Freed += info.Size()
		s.result.Uploads++
		return s.remove(p)
	})
}
