package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
)

// answering is a registry that gives one answer to everything, so many times.
type answering struct {
	status int
	header http.Header
	body   []byte
	left   int
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.left--; a.left < 0 {
		return nil, errors.New("it is asked too often")
	}
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: a.header.Clone(),
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r,
	}, nil
}

// No answer of a registry makes the client panic or ask for ever; what it takes for
// an image has the digest that was asked for, and a blob that is not what its digest
// says is an error.
func FuzzAnswers(f *testing.F) {
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}`
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"platform":{"os":"linux","architecture":"amd64"}},{"platform":null},null]}`
	f.Add(200, "application/vnd.oci.image.manifest.v1+json", "", "", []byte(manifest))
	f.Add(200, "application/vnd.oci.image.index.v1+json", "", "", []byte(index))
	f.Add(200, "application/json", `</v2/a/tags/list?n=1&last=x>; rel="next"`, "", []byte(`{"name":"a","tags":["x",null]}`))
	f.Add(401, "", "", `Bearer realm="https://auth.example/token",service="s",scope="repository:a:pull"`, []byte(`{"token":"t","expires_in":-1}`))
	f.Add(401, "", "", `Basic realm="`, []byte(`{"errors":[{"code":"DENIED","message":null,"detail":{}}]}`))
	f.Add(429, "text/html", "", "", []byte("<html>"))
	f.Add(307, "", "https://elsewhere.example/%zz", "", []byte(""))
	f.Add(404, "application/json", "", "", []byte(`{"errors":null}`))
	f.Add(200, "application/vnd.oci.image.manifest.v1+json", "", "", []byte("null"))
	f.Fuzz(func(t *testing.T, status int, contentType, link, challenge string, body []byte) {
		if status < 100 || status > 599 {
			return
		}
		h := http.Header{}
		for name, value := range map[string]string{"Content-Type": contentType, "Link": link, "Location": link, "Www-Authenticate": challenge, "Retry-After": link, "Docker-Content-Digest": challenge} {
			if value != "" {
				h.Set(name, value)
			}
		}
		wire := &answering{status: status, header: h, body: body, left: 500}
		c := registry.New(registry.Options{
			Transport: wire, Retries: -1, MaxWait: time.Millisecond,
			Credential: func(context.Context, string) (registry.Credential, error) { return registry.Credential{}, nil },
		})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		repo := registry.Ref{Host: "registry.example", Repo: "a/b"}
		asked := digest.FromString("something else")
		if a := c.Lookup(ctx, repo.WithTag("x")); a.State == registry.Hit && a.Desc.Digest != digest.FromBytes(a.Body) {
			t.Errorf("the image %s has the digest %s", digest.FromBytes(a.Body), a.Desc.Digest)
		}
		if a := c.Lookup(ctx, repo.WithDigest(asked)); a.State == registry.Hit {
			t.Errorf("%q is taken for %s", body, asked)
		}
		if _, err := c.ReadBlob(ctx, repo, ocispec.Descriptor{Digest: asked, Size: int64(len(body))}); err == nil {
			t.Errorf("%q is taken for the blob %s", body, asked)
		}
		if d, data, err := c.Platform(ctx, repo.WithTag("x"), "linux/amd64"); err == nil && d.Digest != digest.FromBytes(data) {
			t.Errorf("the image for the platform has the digest %s, not %s", digest.FromBytes(data), d.Digest)
		}
		_, _ = c.Resolve(ctx, repo.WithTag("x"))
		_, _ = c.HasBlob(ctx, repo, ocispec.Descriptor{Digest: asked, Size: 3})
		_, _ = c.Referrers(ctx, repo.WithDigest(asked), "")
		if _, err := c.Tags(ctx, repo); err == nil && wire.left <= 0 {
			t.Error("a list of tags without an end is no error")
		}
		if ctx.Err() != nil {
			t.Errorf("it took more than ten seconds")
		}
	})
}
