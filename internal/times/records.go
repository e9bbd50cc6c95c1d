package times

import (
	"bytes"
	"encoding/binary"
	"path"
	"strings"

	"github.com/strata-build/strata/internal/inventory"
)

// Some files hold the time of another: their readers compare it with what the
// file system says. Where a time is published that is not the engine's, so must
// be what such a file holds.
//
// Compiled Python (.pyc; PEP 552 and what was before it) holds the time and the
// size of its source, fontconfig's caches hold the time of the folder that they
// are about. The value has a fixed place and size in both, so nothing else of
// the file changes. Others that were looked at need nothing: mypy, ccache, TypeScript
// and webpack fall back on contents, apt makes its cache again.

// Record is a time that a file holds of another.
type Record struct {
	Path      string
	Real      int64 // what the engine's file holds, in ns
	Published int64 // what the layer's holds, in seconds
}

// maxRecording is the largest file that is looked into.
const maxRecording = 64 << 20

// field is the place of a time in a file.
type field struct {
	at, size int   // of the seconds, little endian
	nanos    int   // place of the nanoseconds, 8 bytes; 0 without
	recorded int64 // the time, in ns
	of       string
	length   int64 // that the file holds of the other's size; -1 when it holds none
}

// held finds the time that a file holds.
func held(p string, data []byte) (field, bool) {
	switch {
	case isCompiled(p):
		return compiledTime(p, data)
	case strings.Contains(path.Base(p), ".cache-") && path.Base(dir(p)) == "fontconfig":
		return fontconfigTime(data)
	}
	return field{}, false
}

// Holds says whether a path is of a file that may hold the time of another.
func Holds(p string) bool {
	return isCompiled(p) || strings.Contains(path.Base(p), ".cache-") && path.Base(dir(p)) == "fontconfig"
}

// isCompiled says whether a path is that of compiled Python.
func isCompiled(p string) bool { return strings.HasSuffix(p, ".pyc") }

// sourceOf names the source of compiled Python: __pycache__/NAME.TAG.pyc, or
// NAME.TAG.opt-N.pyc, is made of NAME.py in the folder above, NAME.pyc of NAME.py
// beside it.
func sourceOf(pyc string) string {
	at := dir(pyc)
	if path.Base(at) != "__pycache__" {
		return strings.TrimSuffix(pyc, "c")
	}
	return path.Join(dir(at), untagged(path.Base(pyc))+".py")
}

// untagged gives NAME of NAME.TAG.pyc or NAME.TAG.opt-N.pyc; NAME may have dots.
func untagged(name string) string {
	name = strings.TrimSuffix(name, ".pyc")
	for {
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			return name
		}
		optimised := strings.HasPrefix(name[i+1:], "opt-")
		if name = name[:i]; !optimised {
			return name
		}
	}
}

// sources are the files that compiled Python may be of: below a folder that
// PYTHONPYCACHEPREFIX names, the path of the source is repeated.
func sources(pyc, usual string) []string {
	out := []string{usual}
	if name := path.Base(pyc); path.Base(dir(pyc)) != "__pycache__" && strings.Count(name, ".") > 1 {
		for at := dir(pyc); at != ""; {
			_, at, _ = strings.Cut(at, "/")
			out = append(out, path.Join(at, untagged(name)+".py"))
		}
	}
	return out
}

// compiledTime reads the header of compiled Python. Its first two bytes are the
// version: up to 3.2 the time follows at 4, up to 3.6 the size behind it, and
// since 3.7 flags stand between; flags that are not 0 mean a hash in place of
// time and size.
func compiledTime(p string, data []byte) (field, bool) {
	if len(data) < 16 || data[2] != '\r' || data[3] != '\n' {
		return field{}, false
	}
	le := binary.LittleEndian
	f := field{at: 8, size: 4, of: sourceOf(p), length: -1}
	switch version := le.Uint16(data); {
	case version >= 20000 || version < 3230: // Python 2, and 3.0 to 3.2
		f.at = 4
	case version < 3390: // 3.3 to 3.6
		f.at = 4
		f.length = int64(le.Uint32(data[8:]))
	case le.Uint32(data[4:]) != 0:
		return field{}, false
	default:
		f.length = int64(le.Uint32(data[12:]))
	}
	f.recorded = int64(le.Uint32(data[f.at:])) * second
	return f, true
}

// fontconfigTime reads the head of a cache (struct _FcCache of fontconfig's
// fcint.h, 64 bits): magic, version, size, offset of the folder's name, offset
// and number of subfolders, offset of the fonts, then the folder's time in
// seconds, and in nanoseconds.
func fontconfigTime(data []byte) (field, bool) {
	const head = 64
	le := binary.LittleEndian
	if len(data) < head || le.Uint32(data) != 0xFC02FC04 || le.Uint64(data[8:]) != uint64(len(data)) {
		return field{}, false
	}
	at := le.Uint64(data[16:])
	if at < head || at >= uint64(len(data)) {
		return field{}, false
	}
	name, _, ok := bytes.Cut(data[at:], []byte{0})
	if !ok || !path.IsAbs(string(name)) {
		return field{}, false
	}
	return field{
		at: 48, size: 4, nanos: 56, length: -1, of: path.Clean(string(name))[1:],
		recorded: int64(le.Uint32(data[48:]))*second + int64(le.Uint64(data[56:])),
	}, true
}

// record finds out whether a file holds a time that is published as another.
func (w *dating) record(e Entry) (Record, bool) {
	if e.Kind != inventory.File || !Holds(e.Path) || e.Size > maxRecording {
		return Record{}, false
	}
	data, err := w.Read(e.Path)
	if err != nil {
		return Record{}, false
	}
	f, ok := held(e.Path, data)
	if !ok {
		return Record{}, false
	}
	of := []string{f.of}
	if isCompiled(e.Path) {
		of = sources(e.Path, f.of)
	}
	for _, p := range of {
		if w.Follow != nil {
			p = w.Follow(p)
		}
		size, ns, ok := w.Stat(p)
		if !ok || uint32(floor(ns, second)) != uint32(floor(f.recorded, second)) || f.length >= 0 && uint32(size) != uint32(f.length) {
			continue // it was not right before either
		}
		published := w.source(p)
		if uint32(published) == uint32(floor(f.recorded, second)) && f.nanos == 0 {
			return Record{}, false
		}
		return Record{Path: e.Path, Real: f.recorded, Published: published}, true
	}
	// One whose source has gone since is as it was published below.
	r, ok := w.records[e.Path]
	return r, ok && r.Real == f.recorded
}

// Rewrite writes another time into the content of a file that holds one: the
// published one of a record, or the engine's. It is false, and the content as it
// was, where the content has no place for one.
func (r Record) Rewrite(data []byte, published bool) bool {
	f, ok := held(r.Path, data)
	if !ok {
		return false
	}
	ns := r.Real
	if published {
		ns = r.Published * second
	}
	binary.LittleEndian.PutUint32(data[f.at:], uint32(floor(ns, second)))
	if f.nanos > 0 {
		binary.LittleEndian.PutUint64(data[f.nanos:], uint64(ns-floor(ns, second)*second))
	}
	return true
}
