package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/hostfile"
)

// LoadOptions say where a project is read from. The zero value reads the
// folder on disk, for the platform of this machine.
type LoadOptions struct {
	FS       fs.FS             // the project's folder; nil: the folder on disk. Paths with ".." need the latter
	Data     []byte            // content of the named file, in place of what stands there; nil: read it
	Platform string            // of a project that names none; "": linux and this machine's architecture
	Env      map[string]string // what variables of a docker-bake file may be set from
	Image    string            // repository of a project whose file names none; "": made from the folder's name

	// Allow and Ceilings are those of [hostfile.Options]: what the project may read
	// beside its repository, and where none begins.
	Allow, Ceilings []string
}

// The files that Load looks for, the first one that is there wins.
var candidates = []struct {
	name string
	kind Kind
}{
	{"strata.yaml", KindStrata}, {"strata.yml", KindStrata},
	{"docker-bake.hcl", KindBake}, {"docker-bake.json", KindBake},
	{"Dockerfile", KindDockerfile},
}

// Load reads the project in dir. With file "" it looks for strata.yaml,
// strata.yml, docker-bake.hcl, docker-bake.json and Dockerfile, in this order;
// otherwise file, relative to dir, is read as what its name says.
//
// The error is a [*diag.Errors] with everything that is wrong in the file, or
// an error with a hint where there is no file to read.
func Load(dir, file string, o LoadOptions) (*Project, error) {
	l, err := newLoader(dir, file, o)
	if err != nil {
		return nil, err
	}
	kind, file, err := l.find(file)
	if err != nil {
		return nil, err
	}
	switch kind {
	case KindBake:
		return l.bake(file)
	case KindDockerfile:
		return l.dockerfile(file, "")
	}
	return l.strata(file)
}

// FromDockerfile gives the project of a single Dockerfile without a project
// file: one layer, named like the image. Dockerfile is relative to dir; target
// is the stage to build, "" for the last one.
func FromDockerfile(dir, dockerfile, target string, o LoadOptions) (*Project, error) {
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	l, err := newLoader(dir, dockerfile, o)
	if err != nil {
		return nil, err
	}
	return l.dockerfile(filepath.ToSlash(dockerfile), target)
}

// loader reads one project.
type loader struct {
	dir    string
	opts   LoadOptions
	access *hostfile.Access // nil where the project is not on disk
	list   diag.List
}

func newLoader(dir, file string, o LoadOptions) (*loader, error) {
	l := &loader{dir: dir, opts: o}
	if o.FS != nil {
		return l, nil
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		l.access, err = hostfile.New(hostfile.Options{Dir: abs, File: file, Allow: o.Allow, Ceilings: o.Ceilings})
	}
	return l, err
}

// ErrNoProject is the cause when a folder has none of the files that make a project.
var ErrNoProject = errors.New("no strata.yaml, docker-bake.hcl or Dockerfile")

// find gives the project's file and its kind.
func (l *loader) find(file string) (Kind, string, error) {
	if file == "" {
		for _, c := range candidates {
			switch info, err := l.stat(c.name); {
			case errors.Is(err, fs.ErrNotExist), err == nil && info.IsDir():
				continue
			case err != nil:
				return "", "", fmt.Errorf("reading project: %s: %w", c.name, pathCause(err))
			}
			return c.kind, c.name, nil
		}
		return "", "", diag.Hint(fmt.Errorf("%w in %q", ErrNoProject, l.dir),
			"write a strata.yaml for this project: strata init")
	}
	file = filepath.ToSlash(file)
	if l.opts.Data == nil {
		info, err := l.stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && info.IsDir():
			return "", "", diag.Hint(fmt.Errorf("reading project: %q is not there", file), "name a file below %q", l.dir)
		case err != nil:
			return "", "", fmt.Errorf("reading project: %s: %w", file, pathCause(err))
		}
	}
	switch ext := path.Ext(file); {
	case ext == ".yaml" || ext == ".yml":
		return KindStrata, file, nil
	case ext == ".hcl" || ext == ".json":
		return KindBake, file, nil
	}
	return KindDockerfile, file, nil
}

// project gives the content of the project's file.
func (l *loader) project(file string) ([]byte, error) {
	if l.opts.Data != nil {
		return l.opts.Data, nil
	}
	data, err := l.read(file)
	if err != nil {
		return nil, fmt.Errorf("reading project: %w", err)
	}
	return data, nil
}

// read gives the content of a file of the project.
func (l *loader) read(name string) ([]byte, error) {
	if l.opts.FS == nil {
		data, err := l.access.ReadFile(name, hostfile.MaxText)
		if err != nil {
			err = diag.Hint(fmt.Errorf("%s: %w", name, pathCause(err)), "%s", diag.HintOf(err))
		}
		return data, err
	}
	data, err := fs.ReadFile(l.opts.FS, name)
	if len(data) > hostfile.MaxText {
		return nil, fmt.Errorf("%s: %w", name, hostfile.ErrTooLarge(hostfile.MaxText))
	}
	return data, err
}

func (l *loader) stat(name string) (fs.FileInfo, error) {
	if l.opts.FS != nil {
		return fs.Stat(l.opts.FS, name)
	}
	return l.access.Stat(name)
}

// pathCause gives an error about a file without the file's name.
func pathCause(err error) error {
	if pe, ok := err.(*fs.PathError); ok {
		return pe.Err
	}
	return err
}

// refused gives the error of a file or folder that the project may not read; nil
// for one that it may, whether it is there or not.
func (l *loader) refused(name string) error {
	_, err := l.stat(name)
	var out *hostfile.OutsideError
	if errors.As(err, &out) {
		return err
	}
	return nil
}

func (l *loader) isFile(name string) bool {
	info, err := l.stat(name)
	return err == nil && !info.IsDir()
}

func (l *loader) isDir(name string) bool {
	info, err := l.stat(name)
	return err == nil && info.IsDir()
}

// strata reads a strata.yaml.
func (l *loader) strata(file string) (*Project, error) {
	data, err := l.project(file)
	if err != nil {
		return nil, err
	}
	root := l.parse(file, data)
	if root == nil {
		return nil, l.list.Err()
	}
	d := &decoder{checker{file: file, list: &l.list}}
	d.check(root, projectShape, top)
	p := d.project(root)
	p.Dir, p.File, p.Kind, p.Access = l.dir, file, KindStrata, l.access
	auto := d.at(root, "layers") == "auto"
	if auto {
		dockerfile := d.choice(d.get(root, "dockerfile"), pathVars)
		if dockerfile == nil {
			dockerfile = Choice{{Selector: "*", Value: "Dockerfile", Pos: d.pos(deref(d.get(root, "layers")))}}
		}
		l.auto(p, dockerfile[0])
		d.inherit(p, root)
	}
	return l.finish(p)
}

// parse gives the root node of the file's only document, or nil after
// reporting what is wrong.
func (l *loader) parse(file string, data []byte) *yaml.Node {
	var doc yaml.Node
	pos := diag.Pos{File: file, Line: 1, Col: 1}
	if err := yaml.Load(data, &doc); err != nil {
		one, text := err, err.Error()
		var many *yaml.LoadErrors
		if errors.As(err, &many) && len(many.Errors) > 0 {
			one = many.Errors[0]
		}
		var load *yaml.LoadError
		if errors.As(one, &load) {
			text = strings.TrimPrefix(load.Message, "yaml: ")
			if load.Mark.Line > 0 {
				pos.Line, pos.Col = load.Mark.Line, load.Mark.Column
			}
		}
		hint := ""
		switch {
		case strings.Contains(text, "no documents"):
			text, hint = "the file is empty", "write one for this project: strata init --force"
		case strings.Contains(text, "multiple"):
			text, hint = "the file has several documents", "keep what stands before the first ---"
		case strings.Contains(text, "cannot start any token"):
			hint = "indent with spaces, and put texts that begin with %, @, ` or a tab in quotes"
		}
		l.list.Errorf(pos, hint, "reading YAML: %s", text)
		return nil
	}
	if n := (aliases{}).size(doc.Content[0]); n > maxNodes {
		l.list.Errorf(pos, "write out what differs, and set once for all layers what they have in common",
			"reading YAML: with its aliases the file has more than %d values", maxNodes)
		return nil
	}
	root := deref(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		l.list.Errorf(pos, "write one for this project: strata init --force", "reading YAML: the file is empty")
		return nil
	}
	return root
}

// dockerfile makes the project of a single Dockerfile.
func (l *loader) dockerfile(file, target string) (*Project, error) {
	p := &Project{Dir: l.dir, File: file, Kind: KindDockerfile, Access: l.access, Cache: Cache{Type: "none"}}
	pos := diag.Pos{File: file}
	p.Image = l.imageName()
	name := path.Base(p.Image)
	layer := Layer{
		Name: name, Leaf: true, Stale: "allow", OnParentChange: "rebuild", Pos: pos,
		Dockerfile: Choice{{Selector: "*", Value: file, Pos: pos}},
		Context:    Choice{{Selector: "*", Value: ".", Pos: pos}},
	}
	if target != "" {
		layer.Target = Choice{{Selector: "*", Value: target, Pos: pos}}
	}
	p.Layers = []Layer{layer}
	return l.finish(p)
}

// imageName makes a repository for a project whose file names none.
func (l *loader) imageName() string {
	if l.opts.Image != "" {
		return l.opts.Image
	}
	abs, err := filepath.Abs(l.dir)
	if err != nil {
		abs = l.dir
	}
	return nameFrom(filepath.Base(abs))
}

// nameFrom makes a name of a repository or layer out of any text: runs of what
// it must not have become one dash.
func nameFrom(s string) string {
	out := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
	out = strings.Join(strings.FieldsFunc(out, func(r rune) bool { return r == '-' }), "-")
	if len(out) > 63 {
		out = strings.TrimRight(out[:63], "-")
	}
	if out == "" {
		return "app"
	}
	return out
}

// finish applies defaults, checks what only the whole can tell, and resolves
// the units.
func (l *loader) finish(p *Project) (*Project, error) {
	if p.Compression == "" {
		p.Compression = "gzip"
	}
	if len(p.Platforms) == 0 {
		p.Platforms = []string{l.platform()}
	}
	if len(p.Variants) == 0 {
		p.Variants = []Variant{{}}
	}
	for i, v := range p.Variants {
		if len(v.Platforms) == 0 {
			p.Variants[i].Platforms = p.Platforms
		}
	}
	l.validate(p)
	if err := l.list.Err(); err != nil {
		return nil, err
	}
	p.Warnings = append(p.Warnings, l.list.Warnings()...)
	return p, nil
}

func (l *loader) platform() string {
	if l.opts.Platform != "" {
		return l.opts.Platform
	}
	return "linux/" + runtime.GOARCH
}

// names gives the sorted names of a folder's entries, nil when there is no
// such folder. Of very many only some are given.
func (l *loader) names(dir string) []string {
	if l.opts.FS == nil {
		return l.access.Names(dir)
	}
	entries, err := fs.ReadDir(l.opts.FS, dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
