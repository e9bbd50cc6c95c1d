package lock

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

var (
	monday  = time.Date(2026, 11, 16, 6, 0, 0, 0, time.UTC)
	tuesday = monday.AddDate(0, 0, 1)
)

func image(name, version string, at time.Time, platforms ...string) Image {
	i := Image{Name: name, From: "docker.io/library/" + name, Index: digest.FromString(name + version), Resolved: at, Platforms: map[string]Platform{}}
	i.Of = i.Index
	for _, p := range platforms {
		i.Platforms[p] = Platform{Digest: digest.FromString(name + version + p), Env: []string{"V=" + version}}
	}
	return i
}

func file(images ...Image) *File { return &File{Version: Version, Images: images} }

func TestEncodeParse(t *testing.T) {
	f := file(image("node", "1", monday, "linux/amd64"), image("debian", "1", monday, "linux/amd64", "linux/arm64"))
	data, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if back.Images[0].Name != "debian" {
		t.Errorf("the images are not sorted: %v", back.Images[0].Name)
	}
	again, err := back.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(again)); diff != "" {
		t.Errorf("read and written again (-first +second):\n%s", diff)
	}
	i, p, ok := back.Find("debian", "linux/arm64")
	if !ok || p.Digest != digest.FromString("debian1linux/arm64") || i.Index != digest.FromString("debian1") {
		t.Errorf("debian for arm64 is pinned to %v, %v", i.Index, p)
	}
	if _, _, ok := back.Find("debian", "linux/s390x"); ok {
		t.Error("a platform was found that is not there")
	}
	if _, _, ok := (*File)(nil).Find("debian", "linux/amd64"); ok {
		t.Error("no lock pins something")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":              "reading strata.lock: line 1: the file ends in the midst of it",
		`{"version":2}`: "its version is 2, this program knows 1",
		`{"verson":1}`:  `unknown field "verson"`,
		`{"version":1,"images":[{"image":"a","digest":"x"}]}`: `image "a": digest "x": invalid checksum digest format`,
		`{"version":1,"images":[{"digest":"x"}]}`:             "it has no name",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestKeep(t *testing.T) {
	old := file(image("debian", "1", monday, "linux/amd64"), image("node", "1", monday, "linux/amd64"), image("gone", "1", monday, "linux/amd64"))
	fresh := file(image("debian", "2", tuesday, "linux/amd64"), image("node", "2", tuesday, "linux/amd64", "linux/arm64"), image("new", "1", tuesday, "linux/amd64"))
	none := func(string) bool { return false }
	got := old.Keep(fresh, none)
	want := file(image("debian", "1", monday, "linux/amd64"), image("new", "1", tuesday, "linux/amd64"), image("node", "2", tuesday, "linux/amd64", "linux/arm64"))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	moved := old.Keep(fresh, func(name string) bool { return name == "debian" })
	if i, _ := moved.image("debian"); i.Index != digest.FromString("debian2") {
		t.Error("an image that was to move stayed")
	}
	changes := Diff(old, got)
	names := ""
	for _, c := range changes {
		names += c.Name + " "
	}
	if names != "gone new node " {
		t.Errorf("changed: %s", names)
	}
	same := file(image("debian", "1", tuesday, "linux/amd64"))
	if i, _ := file(image("debian", "1", monday, "linux/amd64")).Keep(same, func(string) bool { return true }).image("debian"); i.Resolved != monday {
		t.Error("an image that has not moved got a new date")
	}
}

// A bot that knows of one digest an image moves that one; the platforms below it
// are then looked up again.
func TestStale(t *testing.T) {
	moved := image("debian", "1", monday, "linux/amd64")
	moved.Index = digest.FromString("debian2")
	old := file(moved)
	if _, _, ok := old.Find("debian", "linux/amd64"); ok {
		t.Error("the platforms of another digest pin something")
	}
	if d, ok := old.Index("debian"); !ok || d != moved.Index {
		t.Errorf("the image is pinned to %s, %v", d, ok)
	}
	fresh := file(image("debian", "2", tuesday, "linux/amd64"))
	got := old.Keep(fresh, func(string) bool { return false })
	if diff := cmp.Diff(fresh, got); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	if n := len(old.Without(func(name string) bool { return name == "debian" }).Images); n != 0 {
		t.Errorf("%d images are left", n)
	}
	if (*File)(nil).Without(func(string) bool { return true }) != nil {
		t.Error("there is a lock where there was none")
	}
}

func FuzzParse(f *testing.F) {
	data, err := file(image("debian", "1", monday, "linux/amd64")).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		text, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
	})
}

func TestParseSaysTheLine(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"cut", "{\n  \"version\": 1,\n", "reading strata.lock: line 2: the file ends in the midst of it"},
		{"empty", "", "reading strata.lock: line 1: the file ends in the midst of it"},
		{"syntax", "{\n  \"version\": 1,\n  images\n}\n", "reading strata.lock: line 3: invalid character 'i' looking for beginning of object key string"},
		{"conflict", "{\n<<<<<<< HEAD\n", "reading strata.lock: line 2: git's conflict markers are in it"},
	} {
		_, err := Parse([]byte(c.data))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: it said %v, want %s", c.name, err, c.want)
		}
	}
}
