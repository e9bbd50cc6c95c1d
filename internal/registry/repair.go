package registry

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// dropCorrupt takes out of the store what is about to be written once more, if
// what is stored under its digest is not it: after a full disk or a crash of the
// machine a file may be short or of zeros, and distribution, which trusts the
// file's name, would keep it for good. It gives the request to go on with.
func (e *Embedded) dropCorrupt(r *http.Request) *http.Request {
	if r.Method != http.MethodPut {
		return r
	}
	if strings.Contains(r.URL.Path, "/blobs/uploads/") {
		e.dropUnless(digest.Digest(r.URL.Query().Get("digest")))
		return r
	}
	if !strings.Contains(r.URL.Path, "/manifests/") || r.Body == nil {
		return r
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	rest := io.Reader(bytes.NewReader(body))
	switch {
	case err != nil:
		rest = io.MultiReader(rest, failing{err})
	case len(body) > maxManifest: // refused anyway
		rest = io.MultiReader(rest, r.Body)
	default:
		e.dropUnless(digest.FromBytes(body))
	}
	out := r.Clone(r.Context())
	out.Body = struct {
		io.Reader
		io.Closer
	}{rest, r.Body}
	return out
}

// dropUnless removes the content that is stored under a digest if it has
// another one.
func (e *Embedded) dropUnless(d digest.Digest) {
	if d.Validate() != nil {
		return
	}
	name := e.contentFile(d)
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	v := d.Verifier()
	if _, err := io.Copy(v, f); err == nil && !v.Verified() {
		_ = os.Remove(name) // what can't be removed stays as it was
	}
}

// contentFile is where distribution's file system driver keeps a content.
func (e *Embedded) contentFile(d digest.Digest) string {
	return filepath.Join(e.dir, "docker", "registry", "v2", "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

// failing gives an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
