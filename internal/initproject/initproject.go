// Package initproject reads an existing repository and writes a strata.yaml for
// it: what `strata init` does.
//
// It takes a folder and gives [Findings]: the kind of repository, the text of a
// commented strata.yaml that the project loader accepts, what was recognised,
// and what could not be guessed. It recognises Dockerfiles that stand on each
// other (docker/cpu/Dockerfile.base, ARG BASE_IMAGE), one multi-stage
// Dockerfile, a docker-bake file, compose files with build sections, and a
// repository of several Dockerfiles. It runs nothing and asks no network.
package initproject

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/spec"
)

// Kind is what a repository looks like.
type Kind string

// The kinds of repository.
const (
	KindStrata  Kind = "strata"     // has a strata.yaml
	KindBake    Kind = "bake"       // has a docker-bake file, which is read as it is
	KindLayered Kind = "layered"    // Dockerfiles that stand on each other
	KindStages  Kind = "stages"     // one Dockerfile with named stages
	KindSingle  Kind = "single"     // one Dockerfile with one stage
	KindCompose Kind = "compose"    // compose file with build sections
	KindMany    Kind = "many"       // Dockerfiles that have nothing to do with each other
	KindNothing Kind = "no sources" // no Dockerfile at all
)

// Findings is what a repository was found to be. It is immutable.
type Findings struct {
	Kind   Kind
	File   string   // file to write: "strata.yaml"; "" when there is none to write
	Text   string   // its content; "" when nothing could be made
	Found  []string // what was recognised, a sentence each
	Unsure []string // what could not be guessed, and what to do about it
}

// Options say what the folder itself can't. The zero value works.
type Options struct {
	Name string // of the folder; names the image when nothing else does
}

// File is the name of the file that Detect makes.
const File = "strata.yaml"

// Detect reads a repository. The error is that of reading; a repository from
// which nothing can be made is no error, its Findings have no Text.
func Detect(fsys fs.FS, o Options) (*Findings, error) {
	repo, err := scan(fsys, o)
	if err != nil {
		return nil, err
	}
	g := repo.guess()
	f := &Findings{Kind: g.kind, Found: g.found, Unsure: g.unsure}
	if len(g.layers) == 0 && !g.auto {
		return f, nil
	}
	f.File, f.Text = File, g.text()
	f.Unsure = append(f.Unsure, refused(fsys, f.Text)...)
	return f, nil
}

// refused gives what the project loader says about a text, one finding each.
func refused(fsys fs.FS, text string) []string {
	_, err := spec.Load(".", File, spec.LoadOptions{FS: fsys, Data: []byte(text), Platform: "linux/amd64"})
	var errs *diag.Errors
	if !errors.As(err, &errs) {
		return nil
	}
	var out []string
	for _, f := range errs.Findings {
		out = append(out, f.String())
	}
	return out
}

// Write puts the text of f into dir. Without force it refuses to replace a
// strata.yaml. A crash leaves the old file or the new one.
func Write(dir string, f *Findings, force bool) error {
	if f.Text == "" {
		return diag.Hint(errors.New("writing strata.yaml: nothing in this folder says what to build"),
			"write a Dockerfile first, or name the folder that has one")
	}
	target := filepath.Join(dir, f.File)
	tmp, err := os.CreateTemp(dir, "."+f.File+".*")
	if err != nil {
		return fmt.Errorf("writing %q: %w", target, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(f.Text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err != nil {
		return fmt.Errorf("writing %q: %w", target, err)
	}
	if force {
		err = os.Rename(tmp.Name(), target)
	} else {
		err = os.Link(tmp.Name(), target) // unlike a rename, fails when the file is there
	}
	if errors.Is(err, fs.ErrExist) {
		return diag.Hint(fmt.Errorf("writing %q: it is there already", target), "to replace it: strata init --force")
	}
	if err != nil {
		return fmt.Errorf("writing %q: %w", target, err)
	}
	return nil
}
