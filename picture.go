package strata

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/registry"
)

// picture is an image as a run sees it: its manifest, and its config once that
// was read. It is immutable but for the config that is read later.
type picture struct {
	ref      registry.Ref // repository that holds it; zero for scratch
	desc     ocispec.Descriptor
	body     []byte
	manifest ocispec.Manifest

	mu     sync.Mutex
	config []byte // nil until it is fetched
}

// parsePicture reads a hit of a look-up.
func parsePicture(a registry.Answer) (*picture, error) {
	return readPicture(a.Source, a.Desc, a.Body)
}

func readPicture(repo registry.Ref, desc ocispec.Descriptor, body []byte) (*picture, error) {
	p := &picture{ref: repo.Repository(), desc: desc, body: body}
	if registry.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("reading the manifest %s: it is a list of images, and not one", desc.Digest)
	}
	if err := json.Unmarshal(body, &p.manifest); err != nil {
		return nil, fmt.Errorf("reading the manifest %s: %w", desc.Digest, err)
	}
	return p, nil
}

// loadPicture fetches the manifest and config of one image by digest.
func loadPicture(ctx context.Context, c *registry.Client, ref registry.Ref) (*picture, error) {
	a := c.Lookup(ctx, ref)
	if a.Err != nil {
		return nil, a.Err
	}
	p, err := parsePicture(a)
	if err != nil {
		return nil, err
	}
	return p, p.loadConfig(ctx, c)
}

// loadConfig fetches the config unless it is there.
func (p *picture) loadConfig(ctx context.Context, c *registry.Client) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config != nil {
		return nil
	}
	data, err := c.ReadBlob(ctx, p.ref, p.manifest.Config)
	if err != nil {
		return fmt.Errorf("fetching the config of %s: %w", p.desc.Digest, err)
	}
	p.config = data
	return nil
}

// dockerfileConfig gives what the config contributes to a Dockerfile on top.
func (p *picture) dockerfileConfig() (dockerfile.Config, error) {
	var c struct {
		Config dockerfile.Config `json:"config"`
	}
	if err := json.Unmarshal(p.config, &c); err != nil {
		return dockerfile.Config{}, fmt.Errorf("reading the config of %s: %w", p.desc.Digest, err)
	}
	return c.Config, nil
}

// size gives the compressed bytes and the number of the layers' blobs.
func (p *picture) size() (bytes int64, blobs int) {
	for _, l := range p.manifest.Layers {
		bytes += l.Size
	}
	return bytes, len(p.manifest.Layers)
}

// layerDigests gives the layers' blobs, bottom first.
func (p *picture) layerDigests() []digest.Digest {
	out := make([]digest.Digest, len(p.manifest.Layers))
	for i, l := range p.manifest.Layers {
		out[i] = l.Digest
	}
	return out
}

// attachment finds the descriptor of a blob that an annotation names as
// "DIGEST SIZE".
func attachment(annotations map[string]string, name string) (ocispec.Descriptor, bool) {
	return parseBlob(annotations[name])
}

// parseBlob reads "DIGEST SIZE".
func parseBlob(text string) (ocispec.Descriptor, bool) {
	d, size, ok := strings.Cut(text, " ")
	if !ok || digest.Digest(d).Validate() != nil {
		return ocispec.Descriptor{}, false
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return ocispec.Descriptor{}, false
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.Digest(d), Size: n}, true
}

// annotateBlob is the form that parseBlob reads.
func annotateBlob(content []byte) string {
	return digest.FromBytes(content).String() + " " + strconv.Itoa(len(content))
}
