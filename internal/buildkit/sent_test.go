//go:build linux

package buildkit

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
)

// What takes a file's place after the engine was told of it is never sent: not what
// lies outside of the context, and nothing that the key does not know.
func TestFilesThatChangeBeforeTheyAreSent(t *testing.T) {
	outside := t.TempDir()
	const canary = "root:$6$canary"
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte(canary), 0o600))
	const before = "what the key says"
	for name, change := range map[string]func(t *testing.T, dir, file string){
		"other content":          func(t *testing.T, _, file string) { must(t, os.WriteFile(file, []byte("what no key says!"), 0o644)) },
		"appended to":            func(t *testing.T, _, file string) { must(t, os.WriteFile(file, []byte(before+"+"), 0o644)) },
		"cut":                    func(t *testing.T, _, file string) { must(t, os.Truncate(file, 3)) },
		"emptied":                func(t *testing.T, _, file string) { must(t, os.Truncate(file, 0)) },
		"gone":                   func(t *testing.T, _, file string) { must(t, os.Remove(file)) },
		"not readable as a file": func(t *testing.T, _, file string) { must(t, os.Remove(file)); must(t, os.Mkdir(file, 0o755)) },
		"a pipe":                 func(t *testing.T, _, file string) { must(t, os.Remove(file)); must(t, syscall.Mkfifo(file, 0o644)) },
		"a link out of it": func(t *testing.T, _, file string) {
			must(t, os.Remove(file))
			must(t, os.Symlink(filepath.Join(outside, "file"), file))
		},
		"a relative link out of it": func(t *testing.T, dir, file string) {
			must(t, os.Remove(file))
			to, err := filepath.Rel(filepath.Dir(file), filepath.Join(outside, "file"))
			must(t, err)
			must(t, os.Symlink(to, file))
		},
		"a link inside of it": func(t *testing.T, _, file string) {
			must(t, os.Remove(file))
			must(t, os.Symlink("../other", file))
		},
		"its folder a link out of it": func(t *testing.T, dir, _ string) {
			must(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "was")))
			must(t, os.Symlink(outside, filepath.Join(dir, "sub")))
		},
		"its folder a link to the root": func(t *testing.T, dir, _ string) {
			must(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "was")))
			must(t, os.Symlink("/", filepath.Join(dir, "sub")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("another file"), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "sub", "file"), []byte(before), 0o644))
			s := &sending{job: build.Job{Files: map[string]map[string]digest.Digest{"": {"sub/file": digest.FromString(before)}}}}
			defer s.close()
			c, err := contextFS(s, "", dir)
			must(t, err)
			told := false
			must(t, c.Walk(t.Context(), "/", func(p string, _ fs.DirEntry, err error) error {
				told = told || p == "sub/file"
				return err
			}))
			if got, err := readFrom(c, "sub/file"); !told || err != nil || got != before {
				t.Fatalf("before: told %v, %q, %v", told, got, err)
			}
			change(t, dir, filepath.Join(dir, "sub", "file"))
			got, err := readFrom(c, "sub/file")
			if err == nil || s.err() == nil || diag.HintOf(s.err()) == "" || !strings.Contains(s.err().Error(), `"sub/file"`) {
				t.Errorf("read %q, %v; the job says %v", got, err, s.err())
			}
			if strings.Contains(got, canary) {
				t.Error("a file from outside of the context was handed over")
			}
		})
	}
}

func readFrom(c interface {
	Open(string) (io.ReadCloser, error)
}, name string) (string, error) {
	r, err := c.Open(name)
	if err != nil {
		return "", errors.New("the transfer would take this for an empty file: " + err.Error())
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return string(data), err
}

// A context that changed fails the build, and leaves nothing of the change in the
// engine's own copy.
func TestChangedContextIsNotBuilt(t *testing.T) {
	h := newHub(t)
	h.pushBase(t, "base", "latest")
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM strata.internal/base\nCOPY dir /dir\nRUN cat /dir/a.txt > /seen\n", map[string]string{"dir/a.txt": "one", "dir/b.txt": "b"})
	j.Files = map[string]map[string]digest.Digest{"": {"dir/a.txt": digest.FromString("one"), "dir/b.txt": digest.FromString("b")}}
	mustBuild(t, e, j)
	file := filepath.Join(j.ContextDir, "dir", "a.txt")
	for _, text := range []string{"two", "and more of it", ""} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := e.Build(t.Context(), j, event.Discard)
		want := `building "` + j.Unit + `": sending the build context: reading "dir/a.txt": it changed after the key was made`
		if err == nil || err.Error() != want || diag.HintOf(err) == "" {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
		// What the key says now is built, whatever came over before.
		next := j
		next.Files = map[string]map[string]digest.Digest{"": {"dir/a.txt": digest.FromString(text), "dir/b.txt": digest.FromString("b")}}
		r, _ := mustBuild(t, e, next)
		if got := h.layerText(t, "out/app", r.Body); !strings.Contains(got, "dir/a.txt 0\n"+text) || !strings.Contains(got, "seen 0\n"+text) {
			t.Errorf("the image after %q has:\n%s", text, got)
		}
	}

	asked := 0
	j.Files, j.Unchanged = nil, func(context.Context, string) error { asked++; return errors.New("another file is there") }
	if _, err := e.Build(t.Context(), j, event.Discard); err == nil || err.Error() != `building "`+j.Unit+`": another file is there` || asked == 0 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}
