package key

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/dockerfile"
	"github.com/strata-build/strata/internal/printable"
	"github.com/strata-build/strata/internal/source"
)

// The labels of a recipe's lines.
const (
	labelPlatform = "platform" // OS/ARCH
	labelOption   = "option"   // NAME VALUE: what Strata itself was told
	labelEpoch    = "slot"     // NAME of the refresh slot
	labelSyntax   = "syntax"   // frontend image, as written
	labelParent   = "parent"   // UNIT KEY, or UNIT DIGEST in a content recipe
	labelExternal = "image"    // REFERENCE PLATFORM DIGEST
	labelDo       = "do"       // STAGE TEXT of an instruction in normal form
	labelArg      = "arg"      // NAME VALUE
	labelFile     = "file"     // CONTEXT PATH KIND MODE CONTENT [NAME VALUE]...
	labelRemote   = "remote"   // URL CHECKSUM
	labelSecret   = "secret"   // ID; never a value
	labelSSH      = "ssh"      // ID
	labelLabel    = "label"    // NAME VALUE
)

// namedBy says how many fields name a line's input; the fields behind them are
// its value. A label that is not here is named by all of its fields.
var namedBy = map[string]int{
	labelPlatform: 0, labelOption: 1, labelEpoch: 0, labelSyntax: 0, labelParent: 1,
	labelExternal: 2, labelArg: 1, labelFile: 2, labelRemote: 1, labelLabel: 1,
}

// Parent is what a unit of the graph is to a child's recipe.
type Parent struct {
	Unit   string
	Key    ID            // for a recipe key
	Digest digest.Digest // for a content key; "" while it isn't known
}

// Input is everything that goes into one unit.
type Input struct {
	Platform string
	Slot     string            // of the layer's refresh, "2026-W47"; "" without one
	Options  map[string]string // what changes the result beyond the Dockerfile: compression
	Labels   map[string]string
	Build    *dockerfile.Build
	Files    [][]source.Entry // for each of Build.Inputs, what it takes
	// Parent gives the unit behind a From; ok is false for an external image.
	Parent func(dockerfile.From) (p Parent, ok bool)
	// External gives the digest of an external image for its platform; "" for
	// what is no image, such as a folder or scratch.
	External func(dockerfile.From) digest.Digest
	// Lines keeps the lines of the files, so that recipes of the same files with
	// other slots or parents share them; nil keeps nothing.
	Lines *FileLines
}

// FileLines holds the recipe lines of a unit's files once they were made. The
// zero value is empty.
type FileLines struct {
	whole, trunk onceLines
}

type onceLines struct {
	once  sync.Once
	lines []Line
	text  []byte // of the lines, as it stands in a recipe
}

// Keys are the recipes of one unit.
type Keys struct {
	Unit  Recipe // everything
	Trunk Recipe // what the engine's part is made from; zero when there is none, or no tail
}

// Compute gives the recipes of a unit, parents named by key.
func Compute(in Input) Keys {
	return compute(in, func(p Parent) string { return string(p.Key) })
}

// Content gives the unit's content key, parents named by digest.
func Content(in Input) ContentID {
	r := compute(in, func(p Parent) string { return p.Digest.String() }).Unit
	return ContentID(r.sum())
}

func compute(in Input, parent func(Parent) string) Keys {
	k := Keys{Unit: recipe(in, parent, false)}
	if t := in.Build.Trunk; !t.Empty && len(t.Tail) > 0 {
		k.Trunk = recipe(in, parent, true)
	}
	return k
}

// recipe writes the lines in the order of the labels above.
func recipe(in Input, parent func(Parent) string, trunk bool) Recipe {
	var r Recipe
	b := in.Build
	r.add(labelPlatform, in.Platform)
	r.addMap(labelOption, in.Options)
	if in.Slot != "" {
		r.add(labelEpoch, in.Slot)
	}
	if b.Syntax != "" {
		r.add(labelSyntax, b.Syntax)
	}
	for _, f := range b.Froms {
		if trunk && f.Tail {
			continue
		}
		if p, ok := in.Parent(f); ok {
			r.addOnce(labelParent, p.Unit, parent(p))
		} else if d := in.External(f); d != "" {
			r.addOnce(labelExternal, f.Name(), cmp.Or(f.Platform, in.Platform), d.String())
		}
	}
	lines := b.Lines
	if trunk {
		lines = lines[:b.Trunk.Lines]
	}
	for _, l := range lines {
		r.addText(labelDo, stageName(l), l.Text)
	}
	for _, a := range b.Args {
		if !a.Parent && !(trunk && a.Tail) {
			r.addText(labelArg, a.Name, a.Value)
		}
	}
	for _, rem := range b.Remotes {
		if !trunk || !rem.Tail {
			r.addOnce(labelRemote, printable.URL(rem.URL), rem.Checksum)
		}
	}
	for _, id := range b.Secrets {
		r.add(labelSecret, id)
	}
	for _, id := range b.SSH {
		r.add(labelSSH, id)
	}
	if !trunk {
		r.addMap(labelLabel, in.Labels)
	}
	return r.withFiles(in, trunk)
}

// withFiles gives the recipe with each file once, however many instructions take
// it: which one takes what follows from the instructions' text and the files'
// names.
func (r Recipe) withFiles(in Input, trunk bool) Recipe {
	var here FileLines
	lines := in.Lines
	if lines == nil {
		lines = &here
	}
	kept := &lines.whole
	if trunk {
		kept = &lines.trunk
	}
	kept.once.Do(func() {
		kept.lines = fileLines(in, trunk)
		kept.text = linesText(kept.lines)
	})
	head := r.Text()
	h := sha256.New()
	h.Write(head)
	h.Write(kept.text)
	r.id = hex.EncodeToString(h.Sum(nil))
	r.lines = append(r.lines, kept.lines...)
	return r
}

func fileLines(in Input, trunk bool) []Line {
	var lines []Line
	for i, input := range in.Build.Inputs {
		if trunk && input.Tail {
			continue
		}
		for _, e := range in.Files[i] {
			lines = append(lines, fileLine(input.Context, e))
		}
	}
	slices.SortFunc(lines, func(a, b Line) int { return slices.Compare(a.Fields, b.Fields) })
	return slices.CompactFunc(lines, func(a, b Line) bool { return slices.Equal(a.Fields, b.Fields) })
}

// fileLine writes everything of a file that an image can show. Fields behind
// the content come in pairs of a name and a value.
func fileLine(context string, e source.Entry) Line {
	content := e.Digest.String()
	if content == "" {
		content = e.Link
	}
	l := Line{Label: labelFile, Fields: []string{
		context, e.Path, fmt.Sprint(e.Kind), strconv.FormatUint(uint64(e.Mode), 8), content,
	}}
	if e.Kind == source.CharDevice || e.Kind == source.BlockDevice {
		l.Fields = append(l.Fields, "device", fmt.Sprintf("%d:%d", e.Major, e.Minor))
	}
	if e.HardlinkOf != "" {
		l.Fields = append(l.Fields, "link-of", e.HardlinkOf)
	}
	if e.Implied {
		l.Fields = append(l.Fields, "implied", "yes")
	}
	if len(e.Xattrs) == 0 {
		return l
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		l.Fields = append(l.Fields, "xattr."+name, e.Xattrs[name])
	}
	return l
}

func stageName(l dockerfile.Line) string {
	if l.StageName != "" {
		return l.StageName
	}
	return strconv.Itoa(l.Stage)
}

func (r *Recipe) add(label string, fields ...string) {
	r.lines = append(r.lines, Line{Label: label, Fields: fields})
}

// addText adds a text without the credentials of URLs in it, since recipes are
// published. An ADD fetches the same with another password; anything else may
// write it into the image, so that a digest of the text stands in for it.
func (r *Recipe) addText(label, name, text string) {
	first, rest, more := strings.Cut(text, "\n")
	if label == labelDo && strings.HasPrefix(first, "ADD ") { // what follows are files
		if first = printable.URL(first); more {
			first += "\n" + rest
		}
		r.add(label, name, first)
		return
	}
	if hidden := printable.URL(text); hidden != text {
		r.add(label, name, hidden, digest.FromString(text).String())
		return
	}
	r.add(label, name, text)
}

func (r *Recipe) addOnce(label string, fields ...string) {
	l := Line{Label: label, Fields: fields}
	if !slices.ContainsFunc(r.lines, func(o Line) bool { return o.String() == l.String() }) {
		r.lines = append(r.lines, l)
	}
}

func (r *Recipe) addMap(label string, m map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		r.add(label, name, m[name])
	}
}
