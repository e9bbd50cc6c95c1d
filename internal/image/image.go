package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types, which are read and never written.
const (
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd"
)

// Image is the manifest and the config of one platform's image. It is
// immutable.
type Image struct {
	Manifest   ocispec.Manifest
	Body       []byte             // the manifest as it is stored
	Config     []byte             // the config as it is stored, unknown fields and all
	Descriptor ocispec.Descriptor // of the manifest
}

// Parse reads a manifest and its config and checks that they belong together.
func Parse(manifest, config []byte) (*Image, error) {
	img := &Image{Body: manifest, Config: config}
	if err := json.Unmarshal(manifest, &img.Manifest); err != nil {
		return nil, fmt.Errorf("parsing the image's manifest: %w", err)
	}
	if t := img.Manifest.MediaType; t != "" && t != ocispec.MediaTypeImageManifest && t != dockerManifest {
		return nil, fmt.Errorf("parsing the image's manifest: it is a %q", t)
	}
	if got := digest.FromBytes(config); got != img.Manifest.Config.Digest {
		return nil, fmt.Errorf("parsing the image's config: its digest is %s, the manifest says %s", got, img.Manifest.Config.Digest)
	}
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	if len(c.rootFS.DiffIDs) != len(img.Manifest.Layers) {
		return nil, fmt.Errorf("parsing the image's config: it names %d layers, the manifest has %d", len(c.rootFS.DiffIDs), len(img.Manifest.Layers))
	}
	img.Descriptor = descriptorOf(img.Manifest.MediaType, manifest)
	return img, nil
}

func descriptorOf(mediaType string, body []byte) ocispec.Descriptor {
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
}

// Scratch is the image without layers that a Dockerfile means by FROM scratch.
// It is a parent only; no registry holds it.
func Scratch(p ocispec.Platform) *Image {
	c := newConfig()
	c.set("architecture", p.Architecture)
	c.set("os", p.OS)
	if p.Variant != "" {
		c.set("variant", p.Variant)
	}
	if p.OSVersion != "" {
		c.set("os.version", p.OSVersion)
	}
	c.setRun("Env", []string{"PATH=" + defaultPath})
	c.setRun("WorkingDir", "/")
	c.rootFS.Type = "layers"
	img, err := assemble(c, nil, nil)
	if err != nil {
		panic("internal error: the empty image can't be written: " + err.Error())
	}
	return img
}

// Layers gives the digests of the compressed layers, which an inventory of the
// image must name.
func (i *Image) Layers() []digest.Digest {
	out := make([]digest.Digest, len(i.Manifest.Layers))
	for n, l := range i.Manifest.Layers {
		out[n] = l.Digest
	}
	return out
}

// Platform gives what the config says the image runs on, normalised.
func (i *Image) Platform() (ocispec.Platform, error) {
	var p ocispec.Platform
	if err := json.Unmarshal(i.Config, &p); err != nil {
		return p, fmt.Errorf("parsing the image's platform: %w", err)
	}
	return platforms.Normalize(p), nil
}

// assemble writes config and manifest. The bytes depend on the arguments alone.
// Layers of Docker's media types become their OCI twins: the blobs are the
// same.
func assemble(c *config, layers []ocispec.Descriptor, annotations map[string]string) (*Image, error) {
	raw, err := c.encode()
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))},
		Layers:      []ocispec.Descriptor{},
		Annotations: annotations,
	}
	for _, l := range layers {
		l.MediaType = ociLayerType(l.MediaType)
		m.Layers = append(m.Layers, l)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the image's manifest: %w", err)
	}
	return &Image{Manifest: m, Body: body, Config: raw, Descriptor: descriptorOf(m.MediaType, body)}, nil
}

func ociLayerType(t string) string {
	switch t {
	case dockerLayer:
		return ocispec.MediaTypeImageLayer
	case dockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case dockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return t
}

// Annotate gives the image with annotations added to its manifest. An empty
// value takes an annotation away.
func Annotate(i *Image, annotations map[string]string) (*Image, error) {
	m := i.Manifest
	m.Annotations = maps.Clone(m.Annotations)
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	for k, v := range annotations {
		m.Annotations[k] = v
		if v == "" {
			delete(m.Annotations, k)
		}
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("annotating the image: %w", err)
	}
	return &Image{Manifest: m, Body: body, Config: i.Config, Descriptor: descriptorOf(m.MediaType, body)}, nil
}

// epochTime gives the time that stands for "now" in what is made.
func epochTime(epoch int64) time.Time { return time.Unix(epoch, 0).UTC() }

// isLinux reports whether paths of the config mean what they mean here.
func (c *config) isLinux() bool {
	var os string
	c.get("os", &os)
	return strings.EqualFold(os, "linux")
}
