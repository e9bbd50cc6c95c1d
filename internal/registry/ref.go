package registry

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
)

// EmbeddedHost is the host name of the embedded registry. It is never looked
// up in the DNS: ".internal" is reserved for private use.
const EmbeddedHost = "strata.internal"

// MirrorFolder is the first part of the repositories of the embedded registry
// that serve as mirrors of other registries. No image may have it for the first
// part of its name: what is built must not become what a FROM means.
const MirrorFolder = "strata.mirror"

const dockerHub = "docker.io"

// Ref names a repository, and a tag or a digest in it. With neither, it is the
// repository, or, where a manifest is asked for, the tag "latest".
type Ref struct {
	Host   string // "ghcr.io", "localhost:5000", "docker.io"
	Repo   string // "library/debian"
	Tag    string
	Digest digest.Digest // wins over Tag where both are set
}

// ParseRef reads a reference as Docker does: "debian:bookworm-slim" is
// docker.io/library/debian:bookworm-slim. A missing tag stays empty.
func ParseRef(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, refError(s, err)
	}
	r := Ref{Host: reference.Domain(named), Repo: reference.Path(named)}
	if r.Host == "" { // a first part like "a.b_c" is neither a host nor a name of Docker Hub
		return Ref{}, refError(s, reference.ErrReferenceInvalidFormat)
	}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
	}
	return r, nil
}

func refError(s string, err error) error {
	err = fmt.Errorf("reading the image name %q: %w", s, err)
	name, _, _ := strings.Cut(s, "@")
	lower := strings.ToLower(name)
	if _, e := reference.ParseNormalizedNamed(lower); e == nil && name != lower { // that alone was wrong
		return diag.Hint(err, "repository names are in lower case: %s", lower)
	}
	return diag.Hint(err, "an image name is [HOST/]REPOSITORY[:TAG][@sha256:...], for example ghcr.io/user/app:1.0")
}

// Name gives HOST/REPO.
func (r Ref) Name() string { return r.Host + "/" + r.Repo }

// String gives HOST/REPO[:TAG][@DIGEST].
func (r Ref) String() string { return r.Name() + r.suffix() }

// FamiliarString gives the short form that Docker shows:
// "debian:bookworm-slim" for docker.io/library/debian:bookworm-slim, and the
// repository alone for images of the embedded registry.
func (r Ref) FamiliarString() string {
	name := r.Name()
	switch r.Host {
	case dockerHub:
		name = strings.TrimPrefix(r.Repo, "library/")
	case EmbeddedHost:
		name = r.Repo
	}
	return name + r.suffix()
}

func (r Ref) suffix() string {
	s := ""
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Repository gives r without tag and digest.
func (r Ref) Repository() Ref { return Ref{Host: r.Host, Repo: r.Repo} }

// WithTag gives the tag t in the repository of r.
func (r Ref) WithTag(t string) Ref { return Ref{Host: r.Host, Repo: r.Repo, Tag: t} }

// WithDigest gives the digest d in the repository of r.
func (r Ref) WithDigest(d digest.Digest) Ref { return Ref{Host: r.Host, Repo: r.Repo, Digest: d} }

// reference is what stands in a manifest's URL.
func (r Ref) reference() string {
	switch {
	case r.Digest != "":
		return r.Digest.String()
	case r.Tag != "":
		return r.Tag
	}
	return "latest"
}

// Local gives the place in the embedded registry where what is built on this
// machine under the name of r is kept: HOST/REPO as a repository of
// [EmbeddedHost]. A colon, which a repository name cannot have, becomes an
// underscore, which a host name cannot have. What is in the embedded registry
// already stays where it is.
func (r Ref) Local() Ref {
	if r.Host == EmbeddedHost {
		return r
	}
	host := strings.ToLower(r.Host)
	if rest, ok := strings.CutPrefix(host, "["); ok {
		host = "ip6" + strings.ReplaceAll(strings.ReplaceAll(rest, "]", ""), "::", "--")
	}
	r.Repo = strings.ReplaceAll(host, ":", "_") + "/" + r.Repo
	r.Host = EmbeddedHost
	return r
}

// Mirror gives the place in the embedded registry where an image of another
// registry is kept that was imported by hand. Reads of r find it there.
func (r Ref) Mirror() Ref {
	if r.Host == EmbeddedHost {
		return r
	}
	r = r.Local()
	r.Repo = MirrorFolder + "/" + r.Repo
	return r
}

// IsMirror says whether r lies among the mirrors of the embedded registry.
func (r Ref) IsMirror() bool { return r.Host == EmbeddedHost && mirrorRepo(r.Repo) }

func mirrorRepo(repo string) bool {
	return repo == MirrorFolder || strings.HasPrefix(repo, MirrorFolder+"/")
}
