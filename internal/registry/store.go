package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// The folder is laid out by distribution (its registry/storage/paths.go): blobs
// by digest, and below each repository links to the blobs, manifests and tags
// that belong to it.
const (
	blobsDir = "docker/registry/v2/blobs"
	reposDir = "docker/registry/v2/repositories"
)

// Usage is what an embedded registry holds.
type Usage struct {
	Bytes        int64 `json:"bytes"`      // on disk, unfinished uploads included
	Unfinished   int64 `json:"unfinished"` // bytes of uploads that are under way, or were cut
	Blobs        int   `json:"blobs"`      // manifests included
	Repositories int   `json:"repositories"`
	Tags         int   `json:"tags"`
}

// UsageOf measures the embedded registry in dir without opening it. A folder
// that does not exist holds nothing.
func UsageOf(dir string) (Usage, error) {
	var u Usage
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return gone(err)
		}
		u.Bytes += info.Size()
		switch {
		case strings.Contains(p, "/_uploads/") || filepath.Ext(p) == ".tmp":
			u.Unfinished += info.Size()
		case d.Name() == "data" && strings.Contains(p, "/blobs/"):
			u.Blobs++
		}
		return nil
	})
	if err != nil {
		return u, err
	}
	repos, err := repositories(dir)
	for _, r := range repos {
		u.Repositories++
		tags, terr := tagsOf(dir, r)
		u.Tags += len(tags)
		err = errors.Join(err, terr)
	}
	return u, err
}

// gone forgives that a file was deleted while a folder was read.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Usage measures the folder.
func (e *Embedded) Usage() (Usage, error) { return UsageOf(e.dir) }

// TagInfo is one tag in the embedded registry.
type TagInfo struct {
	Ref     Ref           // with tag
	Digest  digest.Digest // what it points to
	Updated time.Time     // when it was last moved
}

// Repositories lists the repositories by name, in order.
func (e *Embedded) Repositories() ([]string, error) { return repositories(e.dir) }

// Tags lists the tags of a repository by name, in order. Fall-back indexes of
// what is attached (sha256-...) are among them: see [TagInfo.Attachment].
func (e *Embedded) Tags(repo string) ([]TagInfo, error) { return tagsOf(e.dir, repo) }

// Attachment says whether the tag is not a user's, but the list of what is
// attached to the manifest whose digest it gives.
func (t TagInfo) Attachment() (subject digest.Digest, ok bool) {
	algorithm, hex, ok := strings.Cut(t.Ref.Tag, "-")
	d := digest.Digest(algorithm + ":" + hex)
	return d, ok && d.Validate() == nil
}

func repositories(dir string) ([]string, error) {
	root := filepath.Join(dir, reposDir)
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		if !d.IsDir() || !strings.HasPrefix(d.Name(), "_") { // parts of names begin otherwise
			return nil
		}
		name, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); !slices.Contains(out, name) {
			out = append(out, name)
		}
		return fs.SkipDir
	})
	slices.Sort(out)
	return out, err
}

func repoDir(dir, repo string, parts ...string) string {
	return filepath.Join(append([]string{dir, reposDir, filepath.FromSlash(repo)}, parts...)...)
}

func tagsOf(dir, repo string) ([]TagInfo, error) {
	root := repoDir(dir, repo, "_manifests", "tags")
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, gone(err)
	}
	var out []TagInfo
	for _, entry := range entries {
		link := filepath.Join(root, entry.Name(), "current", "link")
		d, at, err := readLink(link)
		if err != nil {
			return nil, err
		}
		if d != "" {
			ref := Ref{Host: EmbeddedHost, Repo: repo, Tag: entry.Name()}
			out = append(out, TagInfo{Ref: ref, Digest: d, Updated: at})
		}
	}
	return out, nil
}

// readLink reads a link file; "" means that there is none, or not a whole one.
func readLink(name string) (digest.Digest, time.Time, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", time.Time{}, gone(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", time.Time{}, gone(err)
	}
	d := digest.Digest(strings.TrimSpace(string(b)))
	if d.Validate() != nil {
		return "", time.Time{}, nil
	}
	return d, info.ModTime(), nil
}

// links lists the digests that have a link file below root/ALGORITHM/HEX.
func links(root string) (map[digest.Digest]time.Time, error) {
	out := map[digest.Digest]time.Time{}
	algorithms, err := os.ReadDir(root)
	if err != nil {
		return out, gone(err)
	}
	for _, a := range algorithms {
		hexes, err := os.ReadDir(filepath.Join(root, a.Name()))
		if err != nil {
			return out, err
		}
		for _, h := range hexes {
			d, at, err := readLink(filepath.Join(root, a.Name(), h.Name(), "link"))
			if err != nil {
				return out, err
			}
			if d != "" {
				out[d] = at
			}
		}
	}
	return out, nil
}

func linkDir(root string, d digest.Digest) string {
	return filepath.Join(root, d.Algorithm().String(), d.Encoded())
}

func blobDir(dir string, d digest.Digest) string {
	return filepath.Join(dir, blobsDir, d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}
