package image

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The loader's cache, /etc/ld.so.cache, as glibc's ldconfig writes it since 2.33
// (elf/cache.c, sysdeps/generic/dl-cache.h): a head of 48 bytes, entries of 24,
// strings, and extensions. Numbers are in the machine's order; only the little
// end first is read.
const (
	loaderMagic     = "glibc-ld.so.cache1.1"
	loaderHead      = 48
	loaderEntry     = 24
	loaderExtension = 0xeaa42174
	loaderGenerator = 0 // tag of the section with the program that wrote it
)

// library is one entry: under which name the loader finds which file.
type library struct {
	name, path string
	flags      uint32
	os         uint32
	hwcap      uint64
}

// loaderCache is a cache that was read.
type loaderCache struct {
	flags     byte
	libraries []library
	generator string
}

// mergeLoaderCache merges the caches of two sides. Each has to come out as it
// was when it is read and written back; so what is merged is what ldconfig would
// have written of the same libraries.
func mergeLoaderCache(old, new, child []byte) ([]byte, []string) {
	var cs [3]*loaderCache
	for i, data := range [][]byte{old, new, child} {
		var err error
		if cs[i], err = readLoaderCache(data); err != nil {
			return nil, []string{err.Error()}
		}
		if !bytes.Equal(cs[i].encode(), data) {
			return nil, []string{"it is not written as ldconfig writes it"}
		}
	}
	o, n, c := cs[0], cs[1], cs[2]
	if o.flags != n.flags || o.flags != c.flags {
		return nil, []string{"it is for another kind of machine"}
	}
	out := &loaderCache{flags: c.flags, generator: c.generator}
	switch {
	case c.generator == o.generator:
		out.generator = n.generator
	case n.generator != o.generator && n.generator != c.generator:
		return nil, []string{"both changed the version of ldconfig"}
	}
	var err error
	if out.libraries, err = mergeLibraries(o.libraries, n.libraries, c.libraries); err != nil {
		return nil, []string{err.Error()}
	}
	return out.encode(), nil
}

// mergeLibraries takes the child's libraries, without those that the new parent
// has lost and with those that it has gained.
func mergeLibraries(old, new, child []library) ([]library, error) {
	out := slices.DeleteFunc(slices.Clone(child), func(l library) bool { return slices.Contains(old, l) && !slices.Contains(new, l) })
	for _, l := range new {
		if slices.Contains(old, l) || slices.Contains(out, l) {
			continue
		}
		i, taken := slices.BinarySearchFunc(out, l, func(a, b library) int { return compareLibraries(b.name, a.name) })
		if taken { // in which order several of one name stand is ldconfig's matter
			return nil, fmt.Errorf("both have the library %s", l.name)
		}
		out = slices.Insert(out, i, l)
	}
	return out, nil
}

// compareLibraries is the order of names in a cache, the greatest first: numbers
// in them count by value, and stand after letters.
func compareLibraries(a, b string) int {
	digit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	number := func(s string) (int, string) {
		n := 0
		for digit(s) {
			n, s = n*10+int(s[0]-'0'), s[1:]
		}
		return n, s
	}
	for a != "" {
		switch {
		case digit(a) && digit(b):
			var x, y int
			x, a = number(a)
			y, b = number(b)
			if x != y {
				return cmp.Compare(x, y)
			}
		case digit(a):
			return 1
		case digit(b):
			return -1
		case b == "":
			return 1
		case a[0] != b[0]:
			return cmp.Compare(int8(a[0]), int8(b[0]))
		default:
			a, b = a[1:], b[1:]
		}
	}
	if b == "" {
		return 0
	}
	return -1
}

func readLoaderCache(data []byte) (*loaderCache, error) {
	broken := errors.New("it is not a loader's cache of a form that is known")
	if len(data) < loaderHead || string(data[:len(loaderMagic)]) != loaderMagic {
		return nil, broken
	}
	u32 := func(at uint32) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	n, ext := u32(20), u32(32)
	if uint64(n)*loaderEntry+loaderHead > uint64(len(data)) || uint64(ext)+24 > uint64(len(data)) {
		return nil, broken
	}
	text := func(at uint32) (string, bool) {
		if uint64(at) >= uint64(len(data)) {
			return "", false
		}
		end := bytes.IndexByte(data[at:], 0)
		if end < 0 {
			return "", false
		}
		return string(data[at : at+uint32(end)]), true
	}
	c := &loaderCache{flags: data[28]}
	for i := range n {
		at := loaderHead + i*loaderEntry
		name, ok := text(u32(at + 4))
		file, ok2 := text(u32(at + 8))
		if !ok || !ok2 {
			return nil, broken
		}
		c.libraries = append(c.libraries, library{name, file, u32(at), u32(at + 12), binary.LittleEndian.Uint64(data[at+16:])})
	}
	if !slices.IsSortedFunc(c.libraries, func(a, b library) int { return compareLibraries(b.name, a.name) }) {
		return nil, broken
	}
	if u32(ext) != loaderExtension || u32(ext+4) != 1 || u32(ext+8) != loaderGenerator {
		return nil, errors.New("it has parts that are not known")
	}
	at, size := uint64(u32(ext+16)), uint64(u32(ext+20))
	if at+size > uint64(len(data)) {
		return nil, broken
	}
	c.generator = string(data[at : at+size])
	return c, nil
}

// encode writes the cache as ldconfig does: each string once, or as the end of a
// longer one, in the descending order of the strings read backwards.
func (c *loaderCache) encode() []byte {
	start := loaderHead + loaderEntry*len(c.libraries)
	table, offsets := stringTable(c.libraries, start)
	out := make([]byte, start, start+len(table)+128)
	copy(out, loaderMagic)
	put := func(at int, v uint32) { binary.LittleEndian.PutUint32(out[at:], v) }
	put(20, uint32(len(c.libraries)))
	put(24, uint32(len(table)))
	out[28] = c.flags
	for i, l := range c.libraries {
		at := loaderHead + i*loaderEntry
		put(at, l.flags)
		put(at+4, offsets[l.name])
		put(at+8, offsets[l.path])
		put(at+12, l.os)
		binary.LittleEndian.PutUint64(out[at+16:], l.hwcap)
	}
	out = append(out, table...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	ext := len(out)
	put(32, uint32(ext))
	for _, v := range []uint32{loaderExtension, 1, loaderGenerator, 0, uint32(ext + 24), uint32(len(c.generator))} {
		out = binary.LittleEndian.AppendUint32(out, v)
	}
	return append(out, c.generator...)
}

func stringTable(libraries []library, start int) ([]byte, map[string]uint32) {
	var all []string
	for _, l := range libraries {
		all = append(all, l.name, l.path)
	}
	slices.SortFunc(all, func(a, b string) int { return compareBackwards(b, a) })
	var table []byte
	offsets := map[string]uint32{}
	last := ""
	for _, s := range slices.Compact(all) {
		if last != "" && strings.HasSuffix(last, s) {
			offsets[s] = offsets[last] + uint32(len(last)-len(s))
			continue
		}
		offsets[s] = uint32(start + len(table))
		table = append(append(table, s...), 0)
		last = s
	}
	return table, offsets
}

func compareBackwards(a, b string) int {
	for i := 1; i <= min(len(a), len(b)); i++ {
		if x, y := a[len(a)-i], b[len(b)-i]; x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}
