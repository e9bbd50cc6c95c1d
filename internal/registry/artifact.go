package registry

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// EnsureEmpty puts the empty config of artifacts into a repository, once for
// each client.
func (c *Client) EnsureEmpty(ctx context.Context, repo Ref) error { return c.pushEmpty(ctx, repo) }

// PutArtifact puts an artifact under a tag, by one request: a manifest of the
// given type that points to subject; a zero one is left out. Its blobs and the empty config
// ([Client.EnsureEmpty]) must be in the repository; without blobs it holds what
// its annotations say. A registry with the referrers API lists it with its
// subject; in any registry it is found by its tag, so no fall-back index is
// written. The subject need not be there yet.
func (c *Client) PutArtifact(ctx context.Context, ref Ref, subject ocispec.Descriptor, artifactType string,
	blobs []ocispec.Descriptor, annotations map[string]string,
) (ocispec.Descriptor, error) {
	if len(blobs) == 0 { // the specification wants one layer at least
		blobs = []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}
	}
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       blobs,
		Annotations:  annotations,
	}
	if subject.Digest != "" {
		m.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	body, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.PutManifest(ctx, ref, ocispec.MediaTypeImageManifest, body)
}
