package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
)

// The media types of Docker that registries still answer with.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// maxManifest is the size that the distribution specification asks registries
// to accept at least, and that distribution itself refuses to exceed.
const maxManifest = 4 << 20

var manifestTypes = []string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, MediaTypeDockerIndex, MediaTypeDockerManifest,
}

// IsIndex says whether a media type is that of a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerIndex
}

func isManifestType(mediaType string) bool {
	for _, t := range manifestTypes {
		if t == mediaType {
			return true
		}
	}
	return false
}

// Resolve gives the descriptor of what ref names, by a HEAD request: it moves
// no body and does not count against Docker Hub's limit.
func (c *Client) Resolve(ctx context.Context, ref Ref) (ocispec.Descriptor, error) {
	d, _, err := fromFirst(c, ref, func(r Ref) (ocispec.Descriptor, error) { return c.head(ctx, r) })
	return d, err
}

func (c *Client) head(ctx context.Context, ref Ref) (ocispec.Descriptor, error) {
	const op = "looking up"
	resp, err := c.do(ctx, manifestCall(op, http.MethodHead, ref))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	d := ocispec.Descriptor{
		MediaType: headerType(resp), Size: resp.ContentLength,
		Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")),
	}
	if d.Digest.Validate() != nil || d.Size < 0 || d.Size > maxManifest || !isManifestType(d.MediaType) {
		d, _, err = c.fetch(ctx, op, ref) // a registry that says too little in a HEAD
		return d, err
	}
	if ref.Digest != "" && ref.Digest != d.Digest {
		return ocispec.Descriptor{}, invalid(op, ref, "the registry answered with %s", d.Digest)
	}
	return d, nil
}

// Manifest gives what ref names and its descriptor, by one GET.
func (c *Client) Manifest(ctx context.Context, ref Ref) (ocispec.Descriptor, []byte, error) {
	a := c.Lookup(ctx, ref)
	return a.Desc, a.Body, a.Err
}

// State is what is known of a reference after a look-up.
type State string

// The states. Nothing but a registry's own word makes a miss.
const (
	Hit    State = "hit"
	Miss   State = "miss"
	Failed State = "error"
)

// Answer is the outcome of a look-up. Err is set for every state but Hit.
type Answer struct {
	State  State
	Source Ref // where it was found: the reference itself, or its mirror
	Desc   ocispec.Descriptor
	Body   []byte
	Err    error
}

// Probe looks every reference up at once, each by one GET of its manifest, in
// the registry that it names. The answers stand in the order of refs.
func (c *Client) Probe(ctx context.Context, refs []Ref) []Answer {
	answers := make([]Answer, len(refs))
	direct := c.Direct()
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() { answers[i] = direct.Lookup(ctx, ref) })
	}
	wg.Wait()
	return answers
}

// Lookup gets one manifest and says where it came from.
func (c *Client) Lookup(ctx context.Context, ref Ref) Answer {
	type found struct {
		desc ocispec.Descriptor
		body []byte
	}
	f, source, err := fromFirst(c, ref, func(r Ref) (found, error) {
		d, body, err := c.fetch(ctx, "looking up", r)
		return found{d, body}, err
	})
	a := Answer{State: Hit, Source: source, Desc: f.desc, Body: f.body, Err: err}
	switch {
	case errors.Is(err, ErrNotFound):
		a.State = Miss
	case err != nil:
		a.State = Failed
	}
	return a
}

func manifestCall(op, method string, ref Ref) call {
	return call{
		op: op, ref: ref, method: method, path: "manifests/" + ref.reference(),
		header: http.Header{"Accept": manifestTypes},
	}
}

func headerType(resp *http.Response) string {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return t
}

// fetch gets a manifest and verifies it.
func (c *Client) fetch(ctx context.Context, op string, ref Ref) (ocispec.Descriptor, []byte, error) {
	var none ocispec.Descriptor
	resp, err := c.do(ctx, manifestCall(op, http.MethodGet, ref))
	if err != nil {
		return none, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return none, nil, transportError(ctx, op, ref, err)
	}
	if len(body) > maxManifest {
		return none, nil, invalid(op, ref, "the manifest is larger than %d bytes", maxManifest)
	}
	mediaType, err := checkManifest(headerType(resp), body)
	d, wrong := checkDigest(ref.Digest, resp.Header.Get("Docker-Content-Digest"), body)
	switch {
	case wrong != nil && isManifestType(headerType(resp)): // broken, whatever it looks like now
		return none, nil, corrupt(op, ref, "%v", wrong)
	case err != nil:
		return none, nil, invalid(op, ref, "%v", err)
	case wrong != nil:
		return none, nil, invalid(op, ref, "%v", wrong)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}, body, nil
}

// checkManifest gives the media type of a manifest. A body that could be read
// in two ways is refused, as the image specification asks.
func checkManifest(header string, body []byte) (string, error) {
	var m struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	mediaType := header
	jsonErr := json.Unmarshal(body, &m)
	if jsonErr == nil && !isManifestType(header) {
		mediaType = m.MediaType
	}
	switch {
	case !isManifestType(mediaType):
		return "", fmt.Errorf("not an image: the media type is %q", header)
	case jsonErr != nil:
		return "", fmt.Errorf("the manifest is not JSON: %w", jsonErr)
	case m.MediaType != "" && m.MediaType != mediaType:
		return "", fmt.Errorf("the manifest says that it is %q, the registry says %q", m.MediaType, mediaType)
	case m.Manifests != nil && (m.Config != nil || m.Layers != nil):
		return "", errors.New("the manifest is an index and an image at once")
	}
	return mediaType, checkParts(mediaType, body)
}

// checkDigest gives the digest of body, which must be the one asked for and
// the one that the registry claims.
func checkDigest(asked digest.Digest, claimed string, body []byte) (digest.Digest, error) {
	got := digest.FromBytes(body)
	if asked != "" {
		if asked.Validate() != nil {
			return "", fmt.Errorf("%q is not a digest", asked)
		}
		if got = asked.Algorithm().FromBytes(body); got != asked {
			return "", fmt.Errorf("the content has another digest: %s", got)
		}
	}
	if d := digest.Digest(claimed); d.Validate() == nil && d.Algorithm().FromBytes(body) != d {
		return "", fmt.Errorf("the registry claims %s, the content is %s", d, got)
	}
	return got, nil
}

// Platform gives the manifest of one platform ("linux/arm64") of what ref
// names: a child of an index, or the image itself where there is no index.
func (c *Client) Platform(ctx context.Context, ref Ref, platform string) (ocispec.Descriptor, []byte, error) {
	d, body, err := c.Manifest(ctx, ref)
	if err != nil || !IsIndex(d.MediaType) {
		return d, body, err
	}
	child, err := c.Choose(ctx, ref, body, platform)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("looking up %q: %w", ref, err)
	}
	got, body, err := c.Manifest(ctx, ref.WithDigest(child.Digest))
	got.Platform = child.Platform
	return got, body, err
}

// PlatformOf picks the manifest of one platform out of an index.
func PlatformOf(index []byte, platform string) (ocispec.Descriptor, error) {
	want, err := platforms.Parse(platform)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading the platform %q: %w", platform, err)
	}
	var list ocispec.Index
	if err := json.Unmarshal(index, &list); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading the index: %w", err)
	}
	match := platforms.OnlyStrict(want)
	best, has := -1, []string{}
	for i, m := range list.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue
		}
		has = append(has, platforms.Format(*m.Platform))
		if match.Match(*m.Platform) && (best < 0 || match.Less(*m.Platform, *list.Manifests[best].Platform)) {
			best = i
		}
	}
	if best < 0 {
		err := fmt.Errorf("%w for %s", errNoPlatform, platform)
		if len(has) > mostNamed {
			has = append(has[:mostNamed], "...")
		}
		return ocispec.Descriptor{}, diag.Hint(err, "the image has: %s", strings.Join(has, ", "))
	}
	return list.Manifests[best], nil
}

// mostNamed bounds the platforms that a hint names.
const mostNamed = 30

// PutManifest puts body at ref: at its digest if it has one, else at its tag.
func (c *Client) PutManifest(ctx context.Context, ref Ref, mediaType string, body []byte) (ocispec.Descriptor, error) {
	d, _, err := c.putManifest(ctx, ref, mediaType, body)
	return d, err
}

func (c *Client) putManifest(ctx context.Context, ref Ref, mediaType string, body []byte) (ocispec.Descriptor, http.Header, error) {
	const op = "pushing"
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Digest = d.Digest
	}
	if ref.Digest != "" && ref.Digest != d.Digest {
		return d, nil, invalid(op, ref, "the manifest has the digest %s", d.Digest)
	}
	if len(body) > maxManifest {
		return d, nil, invalid(op, ref, "the manifest is larger than %d bytes", maxManifest)
	}
	r := call{
		op: op, ref: ref, method: http.MethodPut, path: "manifests/" + ref.reference(),
		header: http.Header{"Content-Type": {mediaType}}, body: bytes.NewReader(body), size: d.Size,
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return d, nil, err
	}
	resp.Body.Close()
	if got := digest.Digest(resp.Header.Get("Docker-Content-Digest")); got.Validate() == nil &&
		got.Algorithm() == d.Digest.Algorithm() && got != d.Digest {
		return d, nil, invalid(op, ref, "the registry stored %s in place of %s", got, d.Digest)
	}
	return d, resp.Header, nil
}

// Delete removes a tag, or a manifest by its digest.
func (c *Client) Delete(ctx context.Context, ref Ref) error {
	resp, err := c.do(ctx, call{
		op: "deleting", ref: ref, method: http.MethodDelete, path: "manifests/" + ref.reference(),
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Tags lists the tags of a repository, in the registry's order. A repository
// that does not exist is [ErrNotFound].
func (c *Client) Tags(ctx context.Context, repo Ref) ([]string, error) {
	const op = "listing the tags of"
	var all []string
	seen, pages := map[string]bool{}, progressing{most: maxTags}
	r := call{op: op, ref: repo.Repository(), method: http.MethodGet, path: "tags/list", query: url.Values{"n": {"1000"}}}
	for {
		var page struct {
			Tags []string `json:"tags"`
		}
		next, err := c.getPage(ctx, r, &page)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for _, t := range page.Tags {
			if !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
		if next == "" {
			return all, nil
		}
		if err := pages.page(len(all)-before, len(all)); err != nil {
			return nil, invalid(op, r.ref, "%v", err)
		}
		r.url = next
	}
}

// maxPage bounds one page of a list: a thousand tags of 128 bytes, or
// descriptors with annotations, are far below.
const maxPage = 16 << 20

// getPage gets one page of a list into v and gives the URL of the next one.
func (c *Client) getPage(ctx context.Context, r call, v any) (next string, err error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return "", transportError(ctx, r.op, r.ref, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return "", invalid(r.op, r.ref, "the answer is not what a registry gives: %v", err)
	}
	return c.nextPage(r, resp)
}

// nextPage reads the Link header (RFC 8288). It must stay on the host: another
// one would be asked with this one's rights.
func (c *Client) nextPage(r call, resp *http.Response) (string, error) {
	link, params, ok := strings.Cut(resp.Header.Get("Link"), ">")
	if !ok || !strings.Contains(params, "next") {
		return "", nil
	}
	u, err := resp.Request.URL.Parse(strings.TrimPrefix(strings.TrimSpace(link), "<"))
	if err != nil || u.Host != resp.Request.URL.Host {
		return "", invalid(r.op, r.ref, "the link to the next page leads elsewhere")
	}
	return u.String(), nil
}
