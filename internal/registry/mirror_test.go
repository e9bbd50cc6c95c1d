package registry_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

// Only an import fills a mirror: what a FROM means on this machine can't be
// changed by a build, by who reaches the port, or by another registry's redirect.
func TestNobodyElseFillsMirrors(t *testing.T) {
	r := registrytest.New(t)
	base := registry.Ref{Host: "docker.io", Repo: "library/debian", Tag: "1"}
	if _, err := r.Embedded.ImportRootfs(ctx, base, "linux/amd64", bytes.NewReader(rootfs(t, "amd64")), registry.ImportConfig{}); err != nil {
		t.Fatal(err)
	}
	c := r.NewClient(registry.Options{MirrorReads: true})
	want, body, err := c.Manifest(ctx, base)
	if err != nil {
		t.Fatal(err)
	}
	mirror := base.Mirror()
	outside := registry.Ref{Host: r.Host, Repo: mirror.Repo, Tag: mirror.Tag}

	for _, ref := range []registry.Ref{mirror, outside} {
		if _, err := c.PutManifest(ctx, ref, ocispec.MediaTypeImageIndex, append(body, ' ')); err == nil {
			t.Errorf("%s: a manifest was put there", ref)
		}
		if _, err := c.PushBytes(ctx, ref, "x", []byte("blob")); err == nil {
			t.Errorf("%s: a blob was put there", ref)
		}
	}
	if err := c.Delete(ctx, outside); err == nil {
		t.Error("a tag was deleted through the port")
	}
	for _, path := range []string{
		"/v2/" + mirror.Repo, "/v2//" + mirror.Repo, "/v2/x/../" + mirror.Repo, "/v2/%73trata.mirror/docker.io/library/debian",
	} {
		req, _ := http.NewRequest(http.MethodPut, "http://"+r.Host+path+"/manifests/1", bytes.NewReader(body))
		req.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 300 {
			t.Errorf("PUT %s: %s", path, resp.Status)
		}
	}
	// What lies there can be read, and mounted elsewhere.
	if got, _, err := c.Manifest(ctx, outside); err != nil || got.Digest != want.Digest {
		t.Errorf("through the port: %v, %v", got, err)
	}
	child, image, err := c.Platform(ctx, base, "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	json.Unmarshal(image, &m)
	if ok, err := c.Mount(ctx, outside, r.Ref("app"), m.Layers[0]); !ok || err != nil {
		t.Errorf("mounting a layer of %s: %v, %v", child.Digest, ok, err)
	}

	if err := c.Delete(ctx, mirror); err != nil {
		t.Errorf("this machine's own processes remove what was imported: %v", err)
	}
}

// A registry that redirects does not reach the registry in this process.
func TestRedirectsDoNotLeadInside(t *testing.T) {
	r := registrytest.New(t)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, "http://"+registry.EmbeddedHost+strings.Replace(req.URL.Path, "/evil/", "/victim/", 1), http.StatusTemporaryRedirect)
	}))
	defer evil.Close()
	c := r.NewClient(registry.Options{Retries: -1})
	d := r.PushImage(t, r.Inside("victim:1"), registrytest.Image{Layers: []map[string]string{{"f": "1"}}})
	_, body, err := c.Manifest(ctx, r.Inside("victim:1"))
	if err != nil {
		t.Fatal(err)
	}
	there := registry.Ref{Host: strings.TrimPrefix(evil.URL, "http://"), Repo: "evil", Tag: "2"}
	if _, err := c.PutManifest(ctx, there, d.MediaType, body); err == nil {
		t.Error("a manifest went where a registry has sent it")
	}
	if _, err := c.Resolve(ctx, r.Inside("victim:2")); err == nil {
		t.Error("a manifest was put into the registry in this process")
	}
	there.Tag = "1"
	if got, _, err := c.Manifest(ctx, there); err == nil {
		t.Errorf("%s was read out of the registry in this process", got.Digest)
	}
}
