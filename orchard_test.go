package strata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/prune"
	"github.com/strata-build/strata/internal/record"
	"github.com/strata-build/strata/internal/registry"
)

// orchard is a workshop whose images pile up: only latest tags are set, and each
// run keeps a record as the program does.
type orchard struct {
	*workshop
	push bool
	runs int
}

const twoPlatforms = `image: HOST/app
platforms: [linux/amd64, linux/arm64]
layers:
  app: {dockerfile: Dockerfile}
tags:
  image: ["latest-{arch}", "{version}-{arch}"]
  index: [latest, "{version}"]
`

func newOrchard(t *testing.T, push bool) *orchard {
	t.Helper()
	w := newWorkshop(t, "FROM scratch\nARG TARGETARCH\nCOPY src/ /src/\nCOPY ${TARGETARCH} /\n")
	w.write(t, "strata.yaml", strings.ReplaceAll(twoPlatforms, "HOST", w.reg.Host))
	w.write(t, "amd64", "amd64\n")
	w.write(t, "arm64", "arm64\n")
	return &orchard{workshop: w, push: push}
}

func (o *orchard) config(t *testing.T, version string) Config {
	t.Helper()
	c := o.workshop.config(t)
	c.Push, c.Now, c.Version.Name = o.push, time.Now(), version
	c.Record = func(res Result) (string, []byte, error) {
		id, err := record.NewID(time.Now(), rand.Reader)
		if err != nil {
			return "", nil, err
		}
		r := record.Record{ID: id, Started: time.Now(), Outcome: record.OK}
		for _, m := range res.Units {
			r.Units = append(r.Units, record.Unit{ID: m.Unit, Digest: m.Ref.Digest.String()})
		}
		for _, m := range res.Tags {
			r.Tags = append(r.Tags, record.Tag{
				Tag: m.Ref.Repository().WithTag(m.Ref.Tag).FamiliarString(), Digest: m.Ref.Digest.String(), Previous: m.Previous,
			})
		}
		data, err := r.Encode()
		return id, data, err
	}
	return c
}

// grow changes a file, builds, and gives the images by unit.
func (o *orchard) grow(t *testing.T, version string) map[string]digest.Digest {
	t.Helper()
	o.runs++
	o.write(t, "src/main.py", fmt.Sprintf("print(%d)\n", o.runs))
	return o.publish(t, version)
}

func (o *orchard) publish(t *testing.T, version string) map[string]digest.Digest {
	t.Helper()
	p, err := Prepare(t.Context(), o.config(t, version))
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]digest.Digest{}
	for _, m := range res.Units {
		out[m.Unit] = m.Ref.Digest
	}
	return out
}

// repo is where the images lie.
func (o *orchard) repo() registry.Ref {
	repo := o.reg.Ref("app")
	if !o.push {
		return repo.Local()
	}
	return repo
}

// prune makes a plan as of so many days from now.
func (o *orchard) prune(t *testing.T, days int, opts PruneOptions) *Pruning {
	t.Helper()
	c := o.config(t, "now")
	c.Now = time.Now().Add(time.Duration(days) * 24 * time.Hour)
	p, err := Prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	x, err := p.Prune(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (o *orchard) apply(t *testing.T, x *Pruning) Pruned {
	t.Helper()
	done, err := x.Execute(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// there says whether the repository holds a manifest whole.
func (o *orchard) there(t *testing.T, d digest.Digest) bool {
	t.Helper()
	err := wholeImage(t.Context(), o.reg.Client.Direct(), o.repo().WithDigest(d))
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// wholeImage reads a manifest and everything that it names.
func wholeImage(ctx context.Context, c *registry.Client, ref registry.Ref) error {
	a := c.Lookup(ctx, ref)
	if a.Err != nil {
		return a.Err
	}
	m, _, err := readManifest(ref.Repository(), a)
	if err != nil {
		return err
	}
	for _, child := range m.Children {
		if err := wholeImage(ctx, c, ref.Repository().WithDigest(child)); err != nil {
			return err
		}
	}
	for _, b := range m.Blobs {
		if _, err := c.ReadBlob(ctx, ref.Repository(), ocispec.Descriptor{Digest: b.Digest, Size: b.Size}); err != nil {
			return err
		}
	}
	return nil
}

// going gives the kinds and units of what a plan lets go.
func going(p prune.Plan) []string {
	var out []string
	for _, i := range p.Items {
		if i.Goes {
			out = append(out, strings.TrimSpace(string(i.Kind)+" "+i.Unit))
		}
	}
	return out
}

func (o *orchard) sbom(t *testing.T, d digest.Digest) digest.Digest {
	t.Helper()
	ref := o.repo().WithDigest(d)
	at, err := o.reg.Client.Direct().Resolve(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := o.reg.Client.Attach(t.Context(), ref, at, "application/spdx+json", []registry.Blob{{MediaType: "application/spdx+json", Data: []byte("of " + d)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got.Digest
}

const (
	amd = "app/linux/amd64"
	arm = "app/linux/arm64"
)
