package strata

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/registry"
)

// late is an engine that is given its job when the context has been changed.
type late struct {
	change func()
	asked  error // what the job says of its main context
	files  map[string]string
}

var errLate = errors.New("enough")

func (l *late) Build(ctx context.Context, j build.Job, _ event.Sink) (build.Result, error) {
	if err := j.Unchanged(ctx, ""); err != nil {
		return build.Result{}, errors.Join(errors.New("nothing changed, and yet"), err)
	}
	l.change()
	l.asked, l.files = j.Unchanged(ctx, ""), map[string]string{}
	for name, d := range j.Files[""] {
		l.files[name] = d.String()
	}
	return build.Result{}, errLate
}

// An engine gets its files some time after they were hashed: a job knows whether
// they are still those of the key.
func TestContextThatChangesBeforeTheEngineHasIt(t *testing.T) {
	const dockerfile = "FROM PARENT\nCOPY src /src\nRUN true\nCOPY tail /tail\n"
	for name, tc := range map[string]struct {
		change func(src string) error
		path   string // that is named; "" where nothing counts
	}{
		"nothing":             {func(string) error { return nil }, ""},
		"a file's content":    {func(src string) error { return os.WriteFile(src+"/main.py", []byte("print(2)\n"), 0o644) }, "src/main.py"},
		"a file's mode":       {func(src string) error { return os.Chmod(src+"/main.py", 0o755) }, "src/main.py"},
		"a folder's mode":     {func(src string) error { return os.Chmod(src+"/sub", 0o700) }, "src/sub"},
		"a file is gone":      {func(src string) error { return os.Remove(src + "/lib.py") }, "src/lib.py"},
		"a file more":         {func(src string) error { return os.WriteFile(src+"/new.py", nil, 0o644) }, "src/new.py"},
		"a link in its place": {func(src string) error { os.Remove(src + "/lib.py"); return os.Symlink("main.py", src+"/lib.py") }, "src/lib.py"},
		"a hard link in its place": {func(src string) error {
			os.Remove(src + "/lib.py")
			return os.Link(src+"/main.py", src+"/lib.py")
		}, "src/lib.py"},
		"the folder a link out of the context": {func(src string) error {
			return errors.Join(os.Rename(src, src+".was"), os.Symlink("/", src)) // which is the context itself
		}, "."},
		"the ignore file": {func(src string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(src), ".dockerignore"), []byte("**/lib.py\n"), 0o644)
		}, "src/lib.py"},
		"what only the tail takes": {func(src string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(src), "tail"), []byte("2"), 0o644)
		}, ""},
		"time alone": {func(src string) error {
			return errors.Join(os.Rename(src+"/lib.py", src+"/x"), os.WriteFile(src+"/lib.py", []byte("x = 1\n"), 0o644), os.Remove(src+"/x"))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t, dockerfile)
			w.write(t, "src/sub/file", "x")
			w.write(t, "tail", "1")
			l := &late{change: func() {
				if err := tc.change(filepath.Join(w.dir, "src")); err != nil {
					t.Error(err)
				}
			}}
			c := w.config(t)
			c.Engine = func(context.Context) (build.Engine, error) { return l, nil }
			p, err := Prepare(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Execute(t.Context()); !errors.Is(err, errLate) {
				t.Fatal(err)
			}
			for _, name := range []string{"src/main.py", "src/lib.py", "src/sub/file"} {
				if l.files[name] == "" {
					t.Errorf("the job does not know what %s has to be: %v", name, l.files)
				}
			}
			if tc.path == "" {
				if l.asked != nil {
					t.Error(l.asked)
				}
				return
			}
			if l.asked == nil || !strings.Contains(l.asked.Error(), `"`+tc.path) || diag.HintOf(l.asked) == "" || !strings.HasPrefix(l.asked.Error(), "Dockerfile:2: ") {
				t.Errorf("the job says %v, hint %q", l.asked, diag.HintOf(l.asked))
			}
		})
	}
}

// The files of a tail are packed some time after they were hashed, too: either
// they are those of the key, or nothing is published under it.
func TestContextThatChangesBeforeItIsPacked(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(canary, []byte("root:$6$canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(file string) error{
		"other content": func(f string) error { return os.WriteFile(f, []byte("print(9)\n"), 0o644) },
		"cut":           func(f string) error { return os.Truncate(f, 2) },
		"gone":          os.Remove,
		"a link out of the context": func(f string) error {
			return errors.Join(os.Remove(f), os.Symlink(canary, f))
		},
		"a folder that is a link out of the context": func(f string) error {
			dir := filepath.Dir(f)
			return errors.Join(os.Rename(dir, dir+".was"), os.Symlink(filepath.Dir(canary), dir))
		},
		"a folder": func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorkshop(t, ordinary)
			p, err := Prepare(t.Context(), w.config(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := change(filepath.Join(w.dir, "src", "main.py")); err != nil {
				t.Fatal(err)
			}
			_, err = p.Execute(t.Context())
			if err == nil || !strings.Contains(err.Error(), "src/") {
				t.Errorf("the run ended with %v", err)
			}
			tag := p.Keys[p.Units[0].ID].Unit.ID().Tag()
			if a := w.reg.Client.Lookup(t.Context(), w.reg.Ref("app:"+tag)); a.State != registry.Miss {
				t.Errorf("the key is a %s", a.State)
			}
		})
	}
}
