package image

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// Instruction is one instruction of a tail, variables expanded.
type Instruction struct {
	Line    int
	Command instructions.Command
	History string // what BuildKit records as created_by; "" leaves no entry
	CmdSet  bool   // of ENTRYPOINT: a CMD stands before it in its stage, and is kept
	Files   []File // what a COPY or ADD takes
	From    bool   // of COPY --from: Files says what it takes
	Chmod   []Chmod
}

// Chmod is one "chmod" or "chown" of a RUN that does nothing else.
type Chmod struct {
	Mode      string // octal or symbolic; "" for chown
	Owner     string // user[:group]; "" for chmod
	Recursive bool
	Paths     []string // absolute
}

// Options say how to append. The zero value makes gzip blobs; what has no time
// of its own is dated to the start of 1970.
type Options struct {
	Open        Opener            // of files that have none of their own; may be nil when there are none
	Created     int64             // seconds: time of history and config
	Made        int64             // seconds: time of what the tail makes itself
	Compression string            // "gzip" (default) or "zstd"
	MaxLayers   int               // default 127, what overlayfs and Docker bear
	Labels      map[string]string // added to the config last, without history
	DropOnBuild bool              // the parent is what FROM names: its triggers are used up
	Platform    *ocispec.Platform // built for; nil keeps the parent's
	Annotations map[string]string // of the new manifest

	// Published gives the time, in seconds, that a file has in the blob; nil
	// leaves it as it is. It is asked once for each file that the tail brings or
	// changes, while the tail is decided: files with a source in order of path,
	// those that the tail makes, then directories, the deepest first; not for a
	// directory of the parent that is in the blob only because something below it is.
	Published func(Dated) int64
}

const defaultMaxLayers = 127

// Appended is a parent with a tail on top, decided but not yet written. It is
// immutable and may be written several times.
type Appended struct {
	parent      *Image
	inventory   *inventory.Inventory
	tree        *tree
	files       []output
	archives    []*archive
	config      *config
	records     []record
	passwd      inventory.Account
	group       inventory.Account
	options     Options
	compression string
}

// record is a history entry to come.
type record struct {
	createdBy string
	layer     bool // the instruction works on files
}

// appender carries out a tail.
type appender struct {
	parent    *Image
	inventory *inventory.Inventory
	config    *config
	tree      *tree
	options   Options
	archives  []*archive
	records   []record
	cmdSet    bool
	linking   bool
}

// Append decides what the tail makes of the parent. The inventory must be the
// parent's; its small part is enough. Errors are [*NotExact] where the engine
// has to build instead; others come from reading the context.
func Append(parent *Image, inv *inventory.Inventory, tail []Instruction, o Options) (*Appended, error) {
	if !inv.Describes(parent.Layers()) {
		return nil, inexact("the inventory is not that of the parent")
	}
	c, err := parseConfig(parent.Config)
	if err != nil {
		return nil, err
	}
	if !c.isLinux() {
		return nil, inexact("the image is not for Linux")
	}
	a := &appender{parent: parent, inventory: inv, config: c, tree: newTree(inv), options: o}
	c.inherit(o.DropOnBuild, o.Platform)
	for _, in := range tail {
		if err := a.instruction(in); err != nil {
			if n := (*NotExact)(nil); errors.As(err, &n) && n.Line == 0 {
				return nil, &NotExact{Line: in.Line, Reason: n.Reason}
			}
			return nil, fmt.Errorf("appending line %d: %w", in.Line, err)
		}
	}
	if len(o.Labels) > 0 {
		labels := map[string]string{}
		c.getRun("Labels", &labels)
		maps.Copy(labels, o.Labels)
		c.setRun("Labels", labels)
	}
	return a.finish()
}

// finish freezes the plan.
func (a *appender) finish() (*Appended, error) {
	p := &Appended{
		parent: a.parent, inventory: a.inventory, tree: a.tree, archives: a.archives,
		config: a.config, records: a.records, options: a.options, compression: a.options.Compression,
	}
	switch p.compression {
	case "":
		p.compression = "gzip"
	case "gzip", "zstd":
	default:
		return nil, fmt.Errorf("appending: the compression %q is none of gzip and zstd", p.compression)
	}
	p.files = a.tree.outputs()
	p.publish()
	limit := a.options.MaxLayers
	if limit == 0 {
		limit = defaultMaxLayers
	}
	if n := len(a.parent.Manifest.Layers) + 1; p.HasBlob() && n > limit {
		return nil, inexact("the image would have %d layers, and %d is the limit", n, limit)
	}
	var err error
	if p.passwd, err = a.accountAfter("etc/passwd", a.inventory.Passwd()); err != nil {
		return nil, err
	}
	if p.group, err = a.accountAfter("etc/group", a.inventory.Group()); err != nil {
		return nil, err
	}
	return p, nil
}

// instruction carries out one instruction.
func (a *appender) instruction(in Instruction) error {
	layer := false
	if done, err := a.metadata(in); err != nil {
		return err
	} else if !done {
		if layer, err = a.filesystem(in); err != nil {
			return err
		}
		a.tree.settle()
	}
	if _, ok := in.Command.(*instructions.WorkdirCommand); ok {
		in.History = "WORKDIR " + a.config.text("WorkingDir")
	}
	if in.History != "" {
		a.records = append(a.records, record{in.History, layer})
	}
	return nil
}

// filesystem carries out an instruction that works on files. It reports whether
// BuildKit would make a layer for it.
func (a *appender) filesystem(in Instruction) (bool, error) {
	switch i := in.Command.(type) {
	case *instructions.WorkdirCommand:
		return a.workdir(i.Path)
	case *instructions.CopyCommand:
		if i.From != "" && !in.From {
			return false, inexact("COPY --from takes files of which nothing is known")
		}
		return true, a.copy(in, i.SourcesAndDest, i.Chown, i.Chmod, i.Link, false)
	case *instructions.AddCommand:
		for _, s := range i.SourcePaths {
			if strings.Contains(s, "://") || strings.HasPrefix(s, "git@") {
				return false, inexact("ADD %s fetches it", s)
			}
		}
		if i.Checksum != "" || i.KeepGitDir != nil {
			return false, inexact("ADD with --checksum or --keep-git-dir")
		}
		return true, a.copy(in, i.SourcesAndDest, i.Chown, i.Chmod, i.Link, i.Unpack == nil || *i.Unpack)
	case *instructions.RunCommand:
		return true, a.chmods(in.Chmod, i)
	}
	return false, inexact("%s needs the engine", strings.ToUpper(in.Command.Name()))
}

// workdir makes the working directory for the user in force.
func (a *appender) workdir(dir string) (bool, error) {
	wd := workdir(a.config.text("WorkingDir"), dir)
	a.config.setRun("WorkingDir", wd)
	if wd == "/" {
		return false, nil
	}
	var own *owner
	if user := a.config.text("User"); user != "" {
		var err error
		if own, err = a.ownerOf(user); err != nil {
			return false, err
		}
	}
	at, err := a.tree.resolve(path.Clean(wd))
	if err != nil {
		return false, err
	}
	a.tree.touched = true
	return true, a.tree.mkdirAll(at, 0o755, own)
}

// copy carries out COPY and ADD.
func (a *appender) copy(in Instruction, sd instructions.SourcesAndDest, chown, chmod string, link, unpack bool) error {
	c := &copying{tree: a.tree, dest: cleanDest(a.config.text("WorkingDir"), sd.DestPath), unpack: unpack, open: a.options.Open}
	if err := c.chmod(chmod); err != nil {
		return err
	}
	// With --chmod BuildKit drops --link without a word.
	if link = link && chmod == ""; link {
		c.tree = newTree(inventory.Empty())
	}
	if chown != "" {
		a.linking = link
		own, err := a.ownerOf(chown)
		a.linking = false
		if err != nil {
			return err
		}
		c.owner = own
	}
	for _, f := range in.Files {
		if c.open == nil && f.Open == nil && f.Kind == inventory.File {
			return fmt.Errorf("there is nothing to open %q with", f.Path)
		}
	}
	if err := c.files(in.Files); err != nil {
		return err
	}
	for _, doc := range sd.SourceContents {
		if err := c.text(doc.Path, doc.Data); err != nil {
			return err
		}
	}
	if link {
		a.tree.overlay(c.tree)
	}
	a.archives = append(a.archives, c.archives...)
	a.tree.touched = true
	return nil
}
