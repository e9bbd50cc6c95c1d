//go:build linux

package buildkit

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/build"
)

// A mark tells two contexts apart that BuildKit takes for the same, reaches an
// engine elsewhere, leaves no trace in the image, and costs nothing when it comes
// again.
func TestMarksTellFoldersApart(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	listen(t, e, l)
	engines := map[string]build.Engine{"embedded": e, "remote": dial(t, "unix://"+l.Addr().String(), RemoteOptions{})}
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			j := job(t, "FROM strata.internal/base\nARG FOR\nCOPY other/plain /plain/\nCOPY . /app/\nRUN echo $FOR\n",
				map[string]string{"src/sub/a": name, "link/b": "b", "other/plain/c": name})
			j.Args = map[string]string{"FOR": name}
			if err := os.Symlink("nowhere", filepath.Join(j.ContextDir, "link/l")); err != nil {
				t.Fatal(err)
			}
			sub := filepath.Join(j.ContextDir, "src/sub")
			build := func(mode os.FileMode, marks map[string]uint64) (modes string, cached int) {
				t.Helper()
				if err := os.Chmod(sub, mode); err != nil {
					t.Fatal(err)
				}
				j.Marks = map[string]map[string]uint64{"": marks}
				r, _ := mustBuild(t, engine, j)
				for _, s := range r.Steps {
					if s.Cached && strings.Contains(s.Name, "COPY") {
						cached++
					}
				}
				return h.layerModes(t, "out/app", r.Body), cached
			}
			build(0o755, nil)
			if _, cached := build(0o755, nil); cached != 2 {
				t.Errorf("nothing has changed, and %d of 2 copies were cached", cached)
			}
			for _, marked := range []string{"src/sub/a", "link/l"} {
				modes, cached := build(0o700, map[string]uint64{marked: 1 << 63})
				if !strings.Contains(modes, "app/src/sub/ 700\n") || cached != 1 {
					t.Errorf("with a mark on %s %d copies were cached, not the other one alone:\n%s", marked, cached, modes)
				}
				if _, cached := build(0o700, map[string]uint64{marked: 1 << 63}); cached != 2 {
					t.Errorf("with the same mark on %s %d of 2 copies were cached", marked, cached)
				}
			}
			if _, cached := build(0o755, nil); cached != 2 {
				t.Errorf("as at first, and %d of 2 copies were cached", cached)
			}
		})
	}
}

// layerModes lists the files of an image's layers with their modes.
func (h *hub) layerModes(t *testing.T, repo string, body []byte) string {
	t.Helper()
	var b strings.Builder
	for _, l := range manifest(t, body).Layers {
		_, data := h.do(t, "GET", "/v2/"+repo+"/blobs/"+l.Digest.String(), "", nil)
		for r := tar.NewReader(bytes.NewReader(unpacked(t, data))); ; {
			hdr, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if hdr.Devmajor != 0 || hdr.Devminor != 0 {
				t.Errorf("%s has the number of a device", hdr.Name)
			}
			fmt.Fprintf(&b, "%s %o\n", hdr.Name, hdr.Mode)
		}
	}
	return b.String()
}
