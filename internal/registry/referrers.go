package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Blob is a small blob that is in memory.
type Blob struct {
	MediaType   string
	Data        []byte
	Annotations map[string]string
}

// referrersTag is the tag of the fall-back index that the distribution
// specification prescribes for registries without the referrers API.
func referrersTag(subject Ref) Ref {
	return subject.WithTag(strings.Replace(subject.Digest.String(), ":", "-", 1))
}

// Referrers lists what is attached to the manifest that ref names by digest,
// of one artifact type or, where it is "", of all. It asks the referrers API,
// or the fall-back index of a registry that does not have it. Nothing attached
// is an empty list.
func (c *Client) Referrers(ctx context.Context, ref Ref, artifactType string) ([]ocispec.Descriptor, error) {
	if ref.Digest.Validate() != nil {
		return nil, invalid("listing what is attached to", ref, "it has to be named by its digest")
	}
	if c.mayHaveReferrers(ref.Host) {
		list, asked, err := c.askReferrers(ctx, ref, artifactType)
		if asked || err != nil {
			return list, err
		}
	}
	index, err := c.fallback(ctx, ref)
	if err != nil {
		return nil, err
	}
	return ofType(index.Manifests, artifactType), nil
}

func ofType(list []ocispec.Descriptor, artifactType string) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool {
		return artifactType != "" && d.ArtifactType != artifactType
	})
}

// mayHaveReferrers is false for a host that is known not to have the API.
func (c *Client) mayHaveReferrers(host string) bool {
	has, known := c.referrers.Load(host)
	return host != EmbeddedHost && (!known || has.(bool))
}

// askReferrers asks the referrers API. asked is false when there is none.
func (c *Client) askReferrers(ctx context.Context, ref Ref, artifactType string) (list []ocispec.Descriptor, asked bool, err error) {
	r := call{
		op: "listing what is attached to", ref: ref, method: http.MethodGet, path: "referrers/" + ref.Digest.String(),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}},
	}
	if artifactType != "" {
		r.query = url.Values{"artifactType": {artifactType}}
	}
	seen, pages := map[digest.Digest]bool{}, progressing{most: maxReferrers}
	for {
		var page ocispec.Index
		next, err := c.getPage(ctx, r, &page)
		if err != nil {
			if c.lacksReferrers(ref.Host, err) {
				return nil, false, nil
			}
			return nil, true, err
		}
		before := len(list)
		for _, d := range page.Manifests {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				list = append(list, d)
			}
		}
		if next == "" {
			c.referrers.Store(ref.Host, true)
			return ofType(list, artifactType), true, nil // a registry may ignore the filter
		}
		if err := pages.page(len(list)-before, len(list)); err != nil {
			return nil, true, invalid(r.op, r.ref, "%v", err)
		}
		r.url = next
	}
}

// lacksReferrers says whether err means that host has no referrers API, and
// remembers it, unless the answer may be about this one repository.
func (c *Client) lacksReferrers(host string, err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch {
	case e.Code == "NAME_UNKNOWN":
		return true
	case e.Status == http.StatusNotFound, e.Status == http.StatusMethodNotAllowed,
		e.Status == http.StatusNotImplemented, e.Code == "UNSUPPORTED":
		c.referrers.Store(host, false)
		return true
	}
	return false
}

// fallback gets the fall-back index of a subject; it is empty when there is
// none yet.
func (c *Client) fallback(ctx context.Context, subject Ref) (ocispec.Index, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	at := referrersTag(subject)
	d, body, err := c.fetch(ctx, "listing what is attached to", at)
	if errors.Is(err, ErrNotFound) {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	if !IsIndex(d.MediaType) {
		return index, invalid("listing what is attached to", at, "the tag holds %q in place of an index", d.MediaType)
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return index, invalid("listing what is attached to", at, "%v", err)
	}
	return index, nil
}

// Attach puts an artifact of the given type beside the image subject, which
// desc describes: blobs, then a manifest that points to the image, then, where
// the registry has no referrers API, the entry in the fall-back index. The
// same content attached again is the same artifact.
func (c *Client) Attach(ctx context.Context, subject Ref, desc ocispec.Descriptor, artifactType string,
	blobs []Blob, annotations map[string]string,
) (ocispec.Descriptor, error) {
	manifest := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       make([]ocispec.Descriptor, len(blobs)),
		Subject:      &ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size},
		Annotations:  annotations,
	}
	if len(blobs) == 0 { // the specification wants one layer at least
		manifest.Layers = []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.pushEmpty(gctx, subject) })
	for i, b := range blobs {
		g.Go(func() (err error) {
			manifest.Layers[i], err = c.PushBytes(gctx, subject, b.MediaType, b.Data)
			manifest.Layers[i].Annotations = b.Annotations
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return ocispec.Descriptor{}, err
	}
	body, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, header, err := c.putManifest(ctx, subject.Repository(), manifest.MediaType, body)
	if err != nil {
		return d, err
	}
	d.ArtifactType, d.Annotations = artifactType, annotations
	if header.Get("OCI-Subject") != "" { // the registry has taken note of the subject
		c.referrers.Store(subject.Host, true)
		return d, nil
	}
	return d, c.addFallback(ctx, subject.WithDigest(desc.Digest), d)
}

// pushEmpty puts the empty config into a repository, once for each client.
func (c *Client) pushEmpty(ctx context.Context, repo Ref) error {
	if _, there := c.empty.Load(repo.Name()); there {
		return nil
	}
	if _, err := c.PushBytes(ctx, repo, ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data); err != nil {
		return err
	}
	c.empty.Store(repo.Name(), true)
	return nil
}

// maxFallbackTries is how often an entry that another writer has overwritten
// is put again.
const maxFallbackTries = 10

// addFallback enters d into the fall-back index of subject. The protocol has
// no compare-and-swap: within this client a lock keeps writers apart, for the
// embedded registry a lock file does so for all processes, and for others the
// index is read again after it was written, until the entry is there. What
// remains is a writer elsewhere that read the index before ours was written and
// writes its own after we looked: the entry is lost then, never the artifact.
func (c *Client) addFallback(ctx context.Context, subject Ref, d ocispec.Descriptor) error {
	unlock, err := c.lockSubject(ctx, subject)
	if err != nil {
		return err
	}
	defer unlock()
	for try := 0; ; try++ {
		index, err := c.fallback(ctx, subject)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d.Digest }) {
			return nil
		}
		if try == maxFallbackTries {
			return invalid("attaching to", subject, "other writers keep overwriting the list of what is attached")
		}
		if try > 0 {
			if err := sleep(ctx, backoff(c.options.RetryWait/4, try)); err != nil {
				return err
			}
		}
		if err := c.putFallback(ctx, subject, index, d); err != nil {
			return err
		}
		if subject.Host == EmbeddedHost {
			return nil
		}
	}
}

func (c *Client) putFallback(ctx context.Context, subject Ref, index ocispec.Index, d ocispec.Descriptor) error {
	index.Manifests = append(slices.Clone(index.Manifests), d)
	err := c.putIndex(ctx, referrersTag(subject), index)
	var e *Error
	if !errors.As(err, &e) || e.Code != "MANIFEST_BLOB_UNKNOWN" && e.Code != "MANIFEST_UNKNOWN" {
		return err
	}
	// Something that was attached has been deleted since: leave it out.
	kept := index.Manifests[:0:0]
	for _, m := range index.Manifests {
		_, err := c.head(ctx, subject.WithDigest(m.Digest))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		kept = append(kept, m)
	}
	index.Manifests = kept
	return c.putIndex(ctx, referrersTag(subject), index)
}

func (c *Client) putIndex(ctx context.Context, at Ref, index ocispec.Index) error {
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	_, err = c.PutManifest(ctx, at, ocispec.MediaTypeImageIndex, body)
	return err
}

// lockSubject keeps other writers of a fall-back index away.
func (c *Client) lockSubject(ctx context.Context, subject Ref) (unlock func(), err error) {
	v, _ := c.subjects.LoadOrStore(subject.String(), &sync.Mutex{})
	mu := v.(*sync.Mutex)
	mu.Lock()
	if subject.Host != EmbeddedHost || c.options.Embedded == nil {
		return mu.Unlock, nil
	}
	release, err := c.options.Embedded.lockTags(ctx)
	if err != nil {
		mu.Unlock()
		return nil, err
	}
	return func() { release(); mu.Unlock() }, nil
}
