// Package corpus holds cases of Dockerfile tails as data: a base image's files,
// a build context and a Dockerfile, in testdata/*.txtar. The same cases run
// through Strata's append and through BuildKit, and must give the same image.
//
// Only tests import it.
//
// A txtar file is one base and one context with several Dockerfiles:
//
//	-- base --            the base's files, a listing
//	-- config --          the base's "config" object, JSON; optional
//	-- context --         the context's files, a listing
//	-- image:NAME --      an image for COPY --from=NAME, a listing; a section more is a layer more
//	-- archive:x.tar.gz --     an archive in the context, a listing
//	-- base64:x.tar.bz2 --     a file in the context, base64
//	-- Dockerfile:name -- one case; its FROM names "base" or scratch
//
// A listing has one file a line:
//
//	dir   MODE UID:GID PATH
//	file  MODE UID:GID PATH ["CONTENT"] [cap=HEX] [xattr=NAME]
//	link  PATH TARGET
//	hard  PATH TARGET
//	fifo  MODE UID:GID PATH
//	char  MODE UID:GID MAJOR:MINOR PATH
//	many  COUNT PATH
package corpus

import (
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

//go:embed testdata
var data embed.FS

// Case is one Dockerfile over a base and a context.
type Case struct {
	Name       string // file/dockerfile
	Dockerfile string
	BaseConfig string // JSON object; "{}" when the file has none
	Inexact    bool   // append must leave it to the engine: "# inexact" in the Dockerfile
	Fails      bool   // BuildKit refuses it: "# fails" in the Dockerfile; append must be inexact

	base, context []item
	images        map[string][][]item // layers
	archives      []archive
}

// item is one line of a listing.
type item struct {
	kind         string
	mode         uint32
	uid, gid     int
	path         string
	text         string // content, or target
	capability   string
	xattr        string // name of an attribute with the value "x"
	major, minor int64
	count        int
	inode        bool // of a hard link: its header says what its target's does
}

type archive struct {
	name  string
	items []item
	raw   []byte
}

// Load gives every case, in order of file and place.
func Load() ([]Case, error) {
	names, err := fs.Glob(data, "testdata/*.txtar")
	if err != nil {
		return nil, fmt.Errorf("loading the corpus: %w", err)
	}
	var out []Case
	for _, name := range names {
		raw, err := data.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("loading the corpus: %w", err)
		}
		cases, err := parse(strings.TrimSuffix(path.Base(name), ".txtar"), txtar.Parse(raw))
		if err != nil {
			return nil, fmt.Errorf("loading %q: %w", name, err)
		}
		out = append(out, cases...)
	}
	return out, nil
}

func parse(file string, a *txtar.Archive) ([]Case, error) {
	common := Case{BaseConfig: "{}", images: map[string][][]item{}}
	var out []Case
	for _, f := range a.Files {
		kind, name, _ := strings.Cut(f.Name, ":")
		text := string(f.Data)
		var err error
		switch kind {
		case "base":
			common.base, err = listing(text)
		case "context":
			common.context, err = listing(text)
		case "image":
			var layer []item
			layer, err = listing(text)
			common.images[name] = append(common.images[name], layer)
		case "config":
			common.BaseConfig = text
		case "archive":
			var items []item
			items, err = listing(text)
			common.archives = append(common.archives, archive{name: name, items: items})
		case "base64":
			var raw []byte
			raw, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), "\n", ""))
			common.archives = append(common.archives, archive{name: name, raw: raw})
		case "Dockerfile":
			out = append(out, Case{
				Name: file + "/" + name, Dockerfile: text,
				Inexact: strings.Contains(text, "# inexact"), Fails: strings.Contains(text, "# fails"),
			})
		default:
			err = fmt.Errorf("unknown section %q", f.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("section %q: %w", f.Name, err)
		}
	}
	for i := range out {
		out[i].BaseConfig, out[i].context, out[i].archives, out[i].images = common.BaseConfig, common.context, common.archives, common.images
		if !strings.Contains(out[i].Dockerfile, "FROM scratch\n") {
			out[i].base = common.base
		}
	}
	return out, nil
}

func listing(text string) ([]item, error) {
	var out []item
	for n, line := range strings.Split(text, "\n") {
		words, err := split(line)
		if err == nil && len(words) > 0 {
			var it item
			it, err = parseItem(words)
			out = append(out, it)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return out, nil
}

// split cuts a line into words; a quoted one is a Go string.
func split(line string) ([]string, error) {
	var out []string
	for line = strings.TrimSpace(line); line != "" && line[0] != '#'; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			out, line = append(out, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, err
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		out, line = append(out, word), line[len(quoted):]
	}
	return out, nil
}

func parseItem(w []string) (item, error) {
	it := item{kind: w[0]}
	want := map[string]int{"dir": 4, "file": 4, "link": 3, "hard": 3, "fifo": 4, "char": 5, "many": 3}[w[0]]
	if want == 0 || len(w) < want {
		return it, fmt.Errorf("bad line %q", w)
	}
	switch w[0] {
	case "link", "hard":
		it.path, it.text = w[1], w[2]
		return it, nil
	case "many":
		n, err := strconv.Atoi(w[1])
		it.count, it.path = n, w[2]
		return it, err
	}
	mode, err := strconv.ParseUint(w[1], 8, 32)
	if err != nil {
		return it, err
	}
	it.mode = uint32(mode)
	if _, err := fmt.Sscanf(w[2], "%d:%d", &it.uid, &it.gid); err != nil {
		return it, err
	}
	it.path = w[want-1]
	if w[0] == "char" {
		_, err = fmt.Sscanf(w[3], "%d:%d", &it.major, &it.minor)
	}
	for _, extra := range w[want:] {
		if hex, ok := strings.CutPrefix(extra, "cap="); ok {
			it.capability = hex
		} else if name, ok := strings.CutPrefix(extra, "xattr="); ok {
			it.xattr = name
		} else {
			it.text = extra
		}
	}
	return it, err
}
