//go:build linux

package buildkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/registry"
)

// hostile gives archives as no honest tool makes them: one for each layer of an
// image, the lowest first.
func hostile() map[string][][]byte {
	file := func(name, text string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), Uname: text}
	}
	dir := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
	}
	hard := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	with := func(h *tar.Header, change func(*tar.Header)) *tar.Header { change(h); return h }
	pax := func(h *tar.Header, records ...string) *tar.Header {
		h.PAXRecords = map[string]string{}
		for i := 0; i < len(records); i += 2 {
			h.PAXRecords[records[i]] = records[i+1]
		}
		return h
	}
	one := func(hs ...*tar.Header) [][]byte { return [][]byte{archiveOf(hs...)} }
	two := func(lower, upper []*tar.Header) [][]byte { return [][]byte{archiveOf(lower...), archiveOf(upper...)} }
	h := func(hs ...*tar.Header) []*tar.Header { return hs }
	raw := func(change func([]byte)) [][]byte {
		a := archiveOf(file("a", "text"), file("b", "more"))
		change(a)
		return [][]byte{a}
	}
	const capable = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	long := strings.Repeat("x", 200)
	return map[string][][]byte{
		"ordinary":                          one(dir("a/"), file("a/b", "text"), link("c", "a/b"), hard("d", "a/b")),
		"up and out":                        one(file("../outside/new", "x"), file("a/../../outside/new2", "y")),
		"absolute":                          one(file("/etc/passwd", "x")),
		"dots within":                       one(dir("a/"), file("./a/./b", "x"), file("a//c", "y"), file("a/x/../d", "z")),
		"a root of its own":                 one(dir("./"), file("./a", "x")),
		"a root that is a file":             one(file(".", "x"), file("a", "y")),
		"a root that is a link":             one(link("./", "../outside"), file("a", "y")),
		"through a link out":                one(link("a", "../outside"), file("a/new", "x")),
		"through an absolute link":          one(link("a", "/outside"), file("a/new", "x")),
		"through a link within":             one(dir("b/"), link("a", "b"), file("a/new", "x")),
		"through a link of a lower layer":   two(h(dir("b/"), link("a", "b")), h(file("a/new", "x"))),
		"a link where a folder was":         one(dir("a/"), file("a/b", "x"), link("a", "/"), file("c", "y")),
		"a folder where a link was":         one(link("a", "../outside"), dir("a/"), file("a/b", "x")),
		"a file below a file":               one(file("a", "x"), file("a/b", "y")),
		"a file below a lower file":         two(h(file("a", "x")), h(file("a/b", "y"))),
		"hard link out":                     one(hard("a", "../outside/canary")),
		"hard link, absolute":               one(file("b", "x"), hard("a", "/b")),
		"hard link to what comes later":     one(hard("a", "b"), file("b", "x")),
		"hard link to nothing":              one(hard("a", "b")),
		"hard link to a folder":             one(dir("b/"), hard("a", "b")),
		"hard link to itself":               one(file("a", "x"), hard("a", "a")),
		"hard link to a link out":           one(link("b", "../outside/canary"), hard("a", "b")),
		"hard link through a link":          one(dir("b/"), file("b/c", "x"), link("l", "b"), hard("a", "l/c")),
		"hard link into a lower layer":      two(h(file("b", "x")), h(hard("a", "b"))),
		"hard link to a lower layer's gone": two(h(file("b", "x")), h(file(".wh.b", ""), hard("a", "b"))),
		"hard link, then another file":      one(file("b", "x"), hard("a", "b"), file("b", "y")),
		"write through a hard link":         two(h(file("b", "x"), hard("a", "b")), h(file("a", "y"))),
		"devices":                           one(&tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, &tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Mode: 0o600, Devmajor: 8}),
		"a device as whiteout":              two(h(file("a", "x")), h(&tar.Header{Typeflag: tar.TypeChar, Name: "b"})),
		"fifo":                              one(&tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o644}),
		"setuid":                            one(with(file("su", "x"), func(h *tar.Header) { h.Mode = 0o6755 }), with(dir("t/"), func(h *tar.Header) { h.Mode = 0o1777 })),
		"mode beyond the bits":              one(with(file("a", "x"), func(h *tar.Header) { h.Mode = 0o170644 })),
		"whiteout":                          two(h(dir("d/"), file("d/a", "x"), file("d/b", "y")), h(file("d/.wh.a", ""))),
		"whiteout of a folder":              two(h(dir("d/"), file("d/a", "x")), h(file(".wh.d", ""))),
		"whiteout of nothing":               one(file(".wh.a", ""), file("b", "x")),
		"whiteout of ..":                    one(dir("d/"), file("d/.wh...", "")),
		"whiteout of .":                     one(dir("d/"), file("d/.wh..", "")),
		"whiteout without a name":           one(dir("d/"), file("d/.wh.", "")),
		"whiteout as folder":                two(h(file("a", "x")), h(dir(".wh.a/"), file(".wh.a/b", "y"))),
		"whiteout as link":                  two(h(file("a", "x")), h(link(".wh.a", "../outside"))),
		"whiteout after its file":           one(file("a", "x"), file(".wh.a", "")),
		"whiteout after its folder":         one(dir("a/"), file("a/b", "x"), file(".wh.a", "")),
		"whiteout before its file":          two(h(file("a", "x")), h(file(".wh.a", ""), file("a", "y"))),
		"whiteout through a link out":       two(h(link("l", "../outside")), h(file("l/.wh.canary", ""))),
		"whiteout through a link within":    two(h(dir("d/"), file("d/a", "x"), link("l", "d")), h(file("l/.wh.a", ""))),
		"whiteout through its own link":     two(h(dir("d/"), file("d/a", "x")), h(link("l", "d"), file("l/.wh.a", ""))),
		"whiteout below a file":             two(h(file("a", "x")), h(file("a/.wh.b", ""))),
		"whiteout in a folder that is not":  two(h(file("a", "x")), h(file("d/.wh.b", ""))),
		"opaque":                            two(h(dir("d/"), file("d/a", "x")), h(dir("d/"), file("d/.wh..wh..opq", ""), file("d/b", "y"))),
		"opaque, late":                      two(h(dir("d/"), file("d/a", "x")), h(dir("d/"), file("d/b", "y"), file("d/.wh..wh..opq", ""))),
		"opaque, twice":                     two(h(dir("d/"), file("d/a", "x")), h(dir("d/"), file("d/.wh..wh..opq", ""), file("d/b", "y"), file("d/.wh..wh..opq", ""))),
		"opaque through a link":             two(h(dir("d/"), file("d/a", "x"), link("l", "d")), h(file("l/.wh..wh..opq", ""))),
		"opaque through a link out":         two(h(link("l", "../outside")), h(file("l/.wh..wh..opq", ""))),
		"opaque in a folder that is not":    two(h(file("a", "x")), h(file("d/.wh..wh..opq", ""))),
		"opaque file":                       two(h(file("d", "x")), h(file("d/.wh..wh..opq", ""))),
		"aufs' own":                         one(file(".wh..wh.plnk", ""), file("a", "x")),
		"one path twice":                    one(file("a", "x"), file("a", "longer")),
		"one path, a slash apart":           one(dir("a"), dir("a/"), file("a/b", "x")),
		"a file with a slash":               one(file("a", "x"), with(file("a/", ""), func(h *tar.Header) { h.Typeflag = tar.TypeDir })),
		"hard link with rights of its own":  one(file("b", "x"), with(hard("a", "b"), func(h *tar.Header) { h.Mode, h.Uid = 0o4755, 7 })),
		"hard links, the last one counts":   one(file("b", "x"), with(hard("a", "b"), func(h *tar.Header) { h.Mode = 0o4755 }), with(hard("c", "a"), func(h *tar.Header) { h.Mode = 0o600 })),
		"hard link to a link, with a mode":  one(link("b", "x"), with(hard("a", "b"), func(h *tar.Header) { h.Mode, h.Uid = 0o4755, 7 })),
		"hard link to a device":             one(&tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o600, Devmajor: 1, Devminor: 3}, with(hard("a", "null"), func(h *tar.Header) { h.Mode = 0o666 })),
		"hard link takes capabilities away": one(pax(file("a", "x"), "SCHILY.xattr.security.capability", capable, "SCHILY.xattr.user.note", "hello"), with(hard("b", "a"), func(h *tar.Header) { h.Mode = 0o755 })),
		"hard link brings capabilities":     one(file("a", "x"), pax(with(hard("b", "a"), func(h *tar.Header) { h.Mode = 0o755 }), "SCHILY.xattr.security.capability", capable)),
		"hard link, its first name gone":    one(file("a", "x"), with(hard("b", "a"), func(h *tar.Header) { h.Mode = 0o700 }), file("a", "y"), with(hard("c", "b"), func(h *tar.Header) { h.Mode = 0o711 })),
		"case apart":                        one(file("a", "x"), file("A", "y")),
		"folder, file, folder":              one(dir("a/"), file("a/b", "x"), file("a", "y"), dir("a/")),
		"lower folder, file, folder":        two(h(dir("a/"), file("a/b", "x")), h(file("a", "y"), dir("a/"))),
		"children before their folder":      one(file("a/b/c", "x"), dir("a/b/"), dir("a/")),
		"no folders at all":                 one(file("a/b/c", "x")),
		"names in records":                  one(pax(file("harmless", "x"), "path", "../outside/new"), pax(link("l", "b"), "linkpath", "../outside")),
		"size in records":                   one(pax(file("a", "x"), "comment", "hm"), file("b", "y")),
		"long names":                        one(file(strings.Repeat(long+"/", 10)+"file", "x")),
		"a name too long":                   one(file(strings.Repeat(long+"/", 30)+"file", "x")),
		"an element too long":               one(file(strings.Repeat("y", 300), "x")),
		"a link too long":                   one(link("l", strings.Repeat(long+"/", 30))),
		"odd names":                         one(file("a\nb", "x"), file("\x1b[31mred", "y"), file("caf\u00e9", "z"), file("\xff\xfe", "w"), file(" ", "v"), file("\u202etxt", "u")),
		"attributes":                        one(pax(file("a", "x"), "SCHILY.xattr.user.note", "hello")),
		"capability":                        one(pax(file("a", "x"), "SCHILY.xattr.security.capability", capable)),
		"negative time":                     one(with(file("a", "x"), func(h *tar.Header) { h.ModTime = time.Unix(-1000, 0); h.Format = tar.FormatPAX })),
		"far time":                          one(with(file("a", "x"), func(h *tar.Header) { h.ModTime = time.Unix(1<<40, 0); h.Format = tar.FormatPAX })),
		"owner beyond the numbers":          one(with(file("a", "x"), func(h *tar.Header) { h.Uid = 1 << 21; h.Format = tar.FormatGNU })),
		"garbage after the end":             {append(archiveOf(file("a", "x")), bytes.Repeat([]byte("junk"), 400)...)},
		"another archive after the end":     {append(archiveOf(file("a", "x")), archiveOf(file("b", "y"))...)},
		"cut in a content":                  {archiveOf(file("a", strings.Repeat("x", 4000)))[:1500]},
		"cut in a header":                   {archiveOf(file("a", "x"), file("b", "y"))[:1024+100]},
		"nothing at all":                    {{}},
		"zeros":                             {make([]byte, 2048)},
		"a wrong checksum":                  raw(func(a []byte) { a[150] ^= 1 }),
		"a negative size":                   raw(func(a []byte) { base256(a[:512], 124, -5) }),
		"a size beyond all":                 raw(func(a []byte) { base256(a[:512], 124, 1<<62) }),
		"an unknown type":                   raw(func(a []byte) { a[156] = 'Q'; checksum(a[:512]) }),
		"a zero in a record's name":         {bytes.Replace(archiveOf(pax(file("a", "x"), "path", "bbbbb@bbbbb")), []byte("bbbbb@bbbbb"), []byte("bbbbb\x00bbbbb"), 1)},
	}
}

// honest are those that some tool does write.
var honest = []string{
	"ordinary", "a root of its own", "dots within", "no folders at all", "children before their folder", "devices", "fifo", "setuid", "long names",
	"odd names", "attributes", "capability", "whiteout", "whiteout of a folder", "whiteout of nothing", "whiteout before its file", "opaque", "opaque, late",
	"aufs' own", "one path twice", "case apart", "hard link with rights of its own", "garbage after the end", "write through a hard link",
	"whiteout in a folder that is not", "absolute", "negative time",
}

// archiveOf makes an archive; the content of a file stands in its Uname.
func archiveOf(hs ...*tar.Header) []byte {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range hs {
		text := h.Uname
		h.Uname = ""
		if p, ok := h.PAXRecords["path"]; ok { // the writer takes it from the name alone
			h.PAXRecords, h.Name = nil, p
		}
		if p, ok := h.PAXRecords["linkpath"]; ok {
			h.PAXRecords, h.Linkname = nil, p
		}
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		err := tw.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(tw, text)
		}
		if err != nil {
			panic(fmt.Sprintf("%q: %v", h.Name, err))
		}
	}
	if err := tw.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// base256 writes a number as GNU's tar does where the octal form is too short.
func base256(header []byte, at int, n int64) {
	for i := range 12 {
		header[at+11-i] = byte(n >> min(8*i, 63))
	}
	header[at] |= 0x80
	checksum(header)
}

// checksum makes a header a valid one.
func checksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// An image's files are those that containerd makes of its layers, with which the
// engine unpacks them; or it is said that they can't be told.
func TestInventoriesOfHostileLayers(t *testing.T) {
	for name, layers := range hostile() {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			var list []inventory.Layer
			for _, l := range layers {
				list = append(list, inventory.Layer{Blob: digest.FromBytes(l), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }})
			}
			inv, err := inventory.FromLayers(t.Context(), nil, list)
			want, refused := unpackedByContainerd(t, layers)
			if err != nil {
				t.Logf("there is no inventory: %v (containerd: %v)", err, refused)
				if slices.Contains(honest, name) {
					t.Error("it is nothing that can't be told")
				}
				return
			}
			if refused != nil {
				t.Logf("containerd refuses it: %v", refused)
				return
			}
			if diff := cmp.Diff(want, listed(inv)); diff != "" {
				t.Errorf("containerd (-) has other files than the inventory (+):\n%s", diff)
			}
		})
	}
}

// listed gives a line for each file of an inventory.
func listed(inv *inventory.Inventory) []string {
	out := []string{}
	for e := range inv.All() {
		if e.Path == "" {
			continue
		}
		line := fmt.Sprintf("%q %s %o %d:%d", e.Path, e.Kind, e.Mode, e.UID, e.GID)
		switch e.Kind {
		case inventory.File:
			line += fmt.Sprintf(" %d %x", e.Size, e.Content[:4])
		case inventory.Symlink:
			line += fmt.Sprintf(" %q", e.Link)
		case inventory.Char, inventory.Block:
			line += fmt.Sprintf(" %d,%d", e.Major, e.Minor)
		}
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			line += fmt.Sprintf(" %s=%q", k, e.Xattrs[k])
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// unpackedByContainerd lets containerd unpack layers, and gives the same lines for what it
// made. It also looks whether anything else was touched.
func unpackedByContainerd(t *testing.T, layers [][]byte) ([]string, error) {
	t.Helper()
	jail := t.TempDir()
	root, outside := filepath.Join(jail, "root"), filepath.Join(jail, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "canary"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if _, err := archive.Apply(t.Context(), root, bytes.NewReader(l)); err != nil {
			return nil, err
		}
	}
	if found := onDisk(t, outside); len(found) != 1 || !strings.HasPrefix(found[0], `"canary" file 600 0:0 5 `) {
		t.Errorf("outside of the image there is %q", found)
	}
	return onDisk(t, root), nil
}

func onDisk(t *testing.T, root string) []string {
	t.Helper()
	out := []string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		kind, more := "", ""
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			kind = inventory.Dir.String()
		case syscall.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			kind, more = inventory.Symlink.String(), fmt.Sprintf(" %q", to)
		case syscall.S_IFCHR, syscall.S_IFBLK:
			kind = inventory.Char.String()
			if st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
				kind = inventory.Block.String()
			}
			more = fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case syscall.S_IFIFO:
			kind = inventory.Fifo.String()
		default:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			kind, more = inventory.File.String(), fmt.Sprintf(" %d %x", len(data), sum[:4])
		}
		line := fmt.Sprintf("%q %s %o %d:%d%s", strings.TrimPrefix(p, root+"/"), kind, st.Mode&0o7777, st.Uid, st.Gid, more)
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(p, names)
		if err == nil {
			for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
				value := make([]byte, 4096)
				if n, err := unix.Lgetxattr(p, name, value); err == nil && !strings.HasPrefix(name, "security.selinux") {
					line += fmt.Sprintf(" %s=%q", name, value[:n])
				}
			}
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// An imported root file system has the files of its archive, as containerd
// unpacks it, but for devices; or it is refused.
func TestImportsOfHostileArchives(t *testing.T) {
	for name, layers := range hostile() {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			store, err := registry.OpenEmbedded(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			ref := registry.Ref{Host: registry.EmbeddedHost, Repo: "odd", Tag: "1"}
			made, err := store.ImportRootfs(t.Context(), ref, "linux/amd64", bytes.NewReader(layers[0]), registry.ImportConfig{})
			if err != nil {
				t.Logf("it is refused: %v", err)
				return
			}
			c := registry.New(registry.Options{Embedded: store})
			_, body, err := c.Manifest(t.Context(), ref.WithDigest(made.Manifest.Digest))
			var m ocispec.Manifest
			if err == nil {
				err = json.Unmarshal(body, &m)
			}
			if err != nil {
				t.Fatal(err)
			}
			packed, err := c.ReadBlob(t.Context(), ref, m.Layers[0])
			if err != nil {
				t.Fatal(err)
			}
			z, err := gzip.NewReader(bytes.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			want, refused := unpackedByContainerd(t, layers[:1])
			got, broken := unpackedByContainerd(t, [][]byte{plain})
			if (refused == nil) != (broken == nil) {
				t.Fatalf("containerd says of the archive: %v; of what was imported: %v", refused, broken)
			}
			device := regexp.MustCompile(`^".*" (` + inventory.Char.String() + "|" + inventory.Block.String() + `) `)
			want = slices.DeleteFunc(want, func(line string) bool { return device.MatchString(line) })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the archive (-) has other files than the import (+):\n%s", diff)
			}
		})
	}
}
