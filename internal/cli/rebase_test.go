//go:build linux

package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strata-build/strata/internal/inventory"
)

// cmdDebian imports the root file system of Debian that scripts/bases.sh has
// made: debian NAME.
func cmdDebian(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "debian NAME")
	dir := os.Getenv("STRATA_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		ts.Check(err)
		dir = filepath.Join(cache, "strata")
	}
	found, err := filepath.Glob(filepath.Join(dir, "bases", "*", "debian-"+runtime.GOARCH+".tar"))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("there is no Debian in %s: run scripts/bases.sh first", dir)
	}
	ts.Check(ts.Exec("strata", "registry", "import", slices.Max(found), "--as", args[0],
		"--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
}

// cmdAlike compares two images file by file, but for volatile files, with what
// strata diff says: alike IMAGE IMAGE. With paths, they differ in those and no
// others: alike IMAGE IMAGE /PATH...
func cmdAlike(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) >= 2, "alike IMAGE IMAGE [PATH...]")
	ts.Check(ts.Exec("strata", "diff", "--json", args[0], args[1]))
	var diffs []struct {
		Path string `json:"path"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &diffs))
	var got []string
	volatile := 0
	for _, d := range diffs {
		if inventory.Volatile(strings.TrimPrefix(d.Path, "/")) {
			volatile++
		} else {
			got = append(got, d.Path)
		}
	}
	if !slices.Equal(got, args[2:]) {
		ts.Fatalf("the images differ in %q, want %q", got, args[2:])
	}
	ts.Logf("%d volatile files differ", volatile)
}

// cmdLayers imports a root file system with the given files into the registry on
// this machine: layers NAME PLATFORM PATH=TEXT...
func cmdLayers(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) >= 3, "layers NAME PLATFORM PATH=TEXT...")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	for _, arg := range args[2:] {
		name, text, _ := strings.Cut(arg, "=")
		if dir := filepath.Dir(name); !made[dir] {
			made[dir] = true
			ts.Check(w.WriteHeader(&tar.Header{Name: dir + "/", Mode: 0o755, Typeflag: tar.TypeDir}))
		}
		ts.Check(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
		_, err := w.Write([]byte(text))
		ts.Check(err)
	}
	ts.Check(w.Close())
	tarball := ts.MkAbs(filepath.Join(ts.Getenv("TMPDIR"), "layers.tar"))
	ts.Check(os.WriteFile(tarball, b.Bytes(), 0o644))
	ts.Check(ts.Exec("strata", "registry", "import", tarball, "--as", args[0], "--platform", args[1]))
	ts.Check(os.Remove(tarball))
}
