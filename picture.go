package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/inventory"
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

// name is the image's for messages.
func (p *picture) name() string { return p.ref.WithDigest(p.desc.Digest).FamiliarString() }

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

// diffIDs gives the digests of the uncompressed layers, bottom first, as the config
// says them: one for each layer.
func (p *picture) diffIDs(ctx context.Context, c *registry.Client) ([]digest.Digest, error) {
	if err := p.loadConfig(ctx, c); err != nil {
		return nil, err
	}
	var config struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(p.config, &config); err != nil {
		return nil, fmt.Errorf("reading the config of %s: %w", p.desc.Digest, err)
	}
	if n, layers := len(config.RootFS.DiffIDs), len(p.manifest.Layers); n != layers {
		return nil, fmt.Errorf("reading the config of %s: it names %d layers, the manifest has %d", p.desc.Digest, n, layers)
	}
	return config.RootFS.DiffIDs, nil
}

// layersFrom gives the layers of an image from number n on in the form in which
// they are read, and checked against what the config says of them.
func (p *picture) layersFrom(ctx context.Context, c *registry.Client, n int, open func(ocispec.Descriptor) (io.ReadCloser, error)) ([]inventory.Layer, error) {
	says, err := p.diffIDs(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []inventory.Layer
	for i, l := range p.manifest.Layers[n:] {
		out = append(out, inventory.Layer{
			Blob: l.Digest, MediaType: l.MediaType, DiffID: says[n+i], Open: func() (io.ReadCloser, error) { return open(l) },
		})
	}
	return out, nil
}

// forgedLayer says what helps where a layer is not what its image's config says.
func forgedLayer(img *picture, err error) error {
	var d *inventory.DiffIDError
	if !errors.As(err, &d) {
		return err
	}
	return diag.Hint(err, "%s is broken or forged, and no container runtime would unpack it; whoever made it has to make it again",
		img.name())
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
