package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/inventory"
)

// headers gives "path time" of everything in a blob.
func headers(t *testing.T, blob []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %d\n", h.Name, h.ModTime.Unix())
	}
}

func datedTail(t *testing.T, files []File, o Options) *Appended {
	t.Helper()
	above := inventory.Change{Entry: inventory.Entry{Path: "opt", Kind: inventory.Dir, Mode: 0o755, Time: 100}}
	into := inventory.Change{Entry: inventory.Entry{Path: "opt/in", Kind: inventory.Dir, Mode: 0o755, Time: 101}}
	img, inv := parentWith(t, `{"os":"linux","architecture":"amd64"}`, above, into)
	doc := Instruction{Command: &instructions.CopyCommand{SourcesAndDest: instructions.SourcesAndDest{
		DestPath: "/doc", SourceContents: []instructions.SourceContent{{Path: "d", Data: "text"}},
	}}}
	a, err := Append(img, inv, []Instruction{copyOf("/opt/in/f", files...), doc}, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What a layer says of times is what its inventory and the fingerprint say, and
// the hook decides all but those of directories that only stand above.
func TestPublishedTimes(t *testing.T) {
	files := []File{{Path: "f", Kind: inventory.File, Mode: 0o644, Size: 1, Time: -200, Digest: digest.FromString("x"), Open: opening("x"), Match: "f"}}
	var asked []Dated
	hook := func(d Dated) int64 {
		asked = append(asked, d)
		return 1000 + d.Time
	}
	for _, tt := range []struct {
		published func(Dated) int64
		want      string
	}{
		{nil, "doc 7\nopt/ 100\nopt/in/ 7\nopt/in/f -200\n"},
		{hook, "doc 1007\nopt/ 100\nopt/in/ 1007\nopt/in/f 800\n"},
	} {
		a := datedTail(t, files, Options{Made: 7, Created: 9, Published: tt.published})
		var out bytes.Buffer
		blob, err := a.WriteBlob(&out)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, headers(t, out.Bytes())); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if _, err := a.WriteBlob(io.Discard); err != nil {
			t.Fatal(err)
		}
		inv, err := a.Inventory(blob)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(tt.want), "\n") {
			name, at, _ := strings.Cut(line, " ")
			if e := inv.Lookup(strings.TrimSuffix(name, "/")); fmt.Sprint(e.Time) != at {
				t.Errorf("the inventory says that %s is of %d", name, e.Time)
			}
		}
	}
	want := []Dated{
		{Path: "opt/in/f", Kind: inventory.File, Digest: digest.FromString("x"), Size: 1, Time: -200},
		{Path: "doc", Kind: inventory.File, Digest: digest.FromString("text"), Size: 4, Time: 7, Made: true},
		{Path: "opt/in", Kind: inventory.Dir, Time: 7, Made: true},
	}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
}

func TestFingerprintTellsTimes(t *testing.T) {
	file := File{Path: "f", Kind: inventory.File, Mode: 0o644, Size: 1, Time: 5, Digest: digest.FromString("x"), Open: opening("x"), Match: "f"}
	first := datedTail(t, []File{file}, Options{Made: 7}).Fingerprint()
	if first == "" || first != datedTail(t, []File{file}, Options{Made: 7, Created: 9}).Fingerprint() {
		t.Error("the config's time matters to the blob")
	}
	if first == datedTail(t, []File{file}, Options{Made: 8}).Fingerprint() {
		t.Error("the time of what is made does not matter")
	}
	file.Time = 6
	if first == datedTail(t, []File{file}, Options{Made: 7}).Fingerprint() {
		t.Error("a source's time does not matter")
	}
}

func TestMemberTime(t *testing.T) {
	for _, tt := range []struct{ sec, nsec, want int64 }{{5, 999999999, 5}, {0, 0, 0}, {-1, 500000000, 0}, {1 << 40, 0, 0}, {4e9, 0, 4e9}} {
		h := &tar.Header{ModTime: time.Unix(tt.sec, tt.nsec)}
		if got := memberTime(h); got != tt.want {
			t.Errorf("%d.%09d: got %d, want %d", tt.sec, tt.nsec, got, tt.want)
		}
	}
}

func TestMergedStamp(t *testing.T) {
	entry := func(at int64, content string) inventory.Entry {
		return inventory.Entry{Kind: inventory.File, Time: at, Content: [32]byte([]byte(content + strings.Repeat("-", 31)))}
	}
	none := inventory.Entry{}
	for _, tt := range []struct {
		content       string
		old, new, own inventory.Entry
		want          int64
	}{
		{"m", entry(3, "a"), entry(9, "b"), entry(5, "c"), 10},
		{"c", entry(3, "a"), entry(9, "b"), entry(5, "c"), 9},
		{"m", none, entry(-9, "b"), entry(-5, "c"), -4},
	} {
		content := [32]byte([]byte(tt.content + strings.Repeat("-", 31)))
		if got := mergedStamp(content, tt.old, tt.new, tt.own); got != (stamp{time: tt.want, known: true}) {
			t.Errorf("%s: got %v, want %d", tt.content, got, tt.want)
		}
	}
}
