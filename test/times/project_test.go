//go:build linux

package times

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/strata-build/strata/internal/build"
)

// project is one project in one or several releases.
type project struct {
	name string
	// files is a txtar archive; NAME in a file is the project's. A file called "@2 NAME" is written for the second
	// release, "@2 -NAME" is removed. "!do" is a shell script that is run in the
	// project's folder when the release's files are written, "!date" the date of
	// its commit, "!args" what strata build is told.
	files string
	git   bool
	// yaml is what follows image and platforms in strata.yaml.
	yaml  string
	image string   // times/NAME
	bases []string // busybox:1
	units []unit   // what is compared; parents first. app, of Dockerfile
	// steps are what Strata must do in the last release, so that the project
	// tries what it is there for: "app" is to be "append".
	steps map[string]string
	// cached projects keep something between builds beside images.
	cached bool
	// holds are the paths whose content holds a time of day, and differs.
	holds []string
	// ask is called after each release, to run programs in the images. before
	// is the release before; nil in the first.
	ask func(t *testing.T, now, before *images)
}

// unit is one image: Strata's name for it, and how plain BuildKit makes it.
type unit struct {
	name       string // app/cpu
	dockerfile string // Dockerfile
	target     string
	parent     string            // its image is BASE_IMAGE
	args       map[string]string // "@FILE" is that file's content
}

// checkout is a project's folder while its releases are made.
type checkout struct {
	*project
	dir     string
	archive *txtar.Archive
	forks   map[string]string // the project's bases, as named contexts for plain BuildKit
	context map[string]bool
	started int64
}

func (p *project) checkout(t *testing.T, w *world) *checkout {
	t.Helper()
	c := &checkout{project: p, archive: txtar.Parse([]byte(p.files)), forks: map[string]string{}, context: map[string]bool{}, started: time.Now().Unix()}
	c.dir = filepath.Join(w.dir, "p", t.Name())
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if p.bases == nil {
		p.bases = []string{small}
	}
	for _, base := range p.bases {
		repo, _, _ := strings.Cut(base, ":")
		if base != small {
			c.write(t, ".project", p.name)
			c.forks[base] = w.bases.context(base, w.bases.get(t, base).digest)
			continue
		}
		c.forks[repo+":"+p.name] = w.bases.context(base, w.bases.fork(t, w.plain.store, inReference, base, p.name))
	}
	if p.units == nil {
		p.units = []unit{{name: "app"}}
	}
	yaml := "layers: {app: {}}\n"
	if p.yaml != "" {
		yaml = p.yaml
	}
	c.write(t, "strata.yaml", "image: "+p.repo()+"\nplatforms: ["+platform+"]\n"+yaml)
	if p.git {
		c.sh(t, "git init -q -b main && git config gc.auto 0", "")
	}
	return c
}

// apart keeps projects apart. BuildKit takes what two have in common from its
// cache, with the times of the first; so each project has a small base of its
// own, or begins with a file of its own.
func (c *checkout) apart(dockerfile string) string {
	for _, base := range c.bases {
		repo, _, _ := strings.Cut(base, ":")
		if base == small {
			dockerfile = strings.ReplaceAll(dockerfile, base, repo+":"+c.name)
		} else {
			from := regexp.MustCompile(`(?m)^FROM ` + regexp.QuoteMeta(base) + `.*$`)
			dockerfile = from.ReplaceAllString(dockerfile, "$0\nCOPY .project /etc/project")
		}
	}
	return dockerfile
}

const small = "busybox:1"

// bringTo puts the project's bases into a machine's registry.
func (c *checkout) bringTo(t *testing.T, m *machine) {
	t.Helper()
	m.need(t, c.bases...)
	for _, base := range c.bases {
		if base != small {
			continue
		}
		if d := m.w.bases.fork(t, m.store, onMachine, base, c.name); !strings.HasSuffix(c.forks[strings.Split(base, ":")[0]+":"+c.name], d.String()) {
			t.Fatalf("the project's %s is another one on machine %s", base, m.name)
		}
	}
}

func (p *project) repo() string { return cmp.Or(p.image, "times/"+p.name) }

func (c *checkout) write(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "NAME", c.name)
	if strings.Contains(name, "Dockerfile") {
		text = c.apart(text)
	}
	if name == "strata.yaml" && !strings.HasPrefix(text, "image:") {
		text = "image: " + c.repo() + "\nplatforms: [" + platform + "]\n" + text
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c *checkout) sh(t *testing.T, script, date string) {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir, cmd.Env = c.dir, cleanEnv()
	if date != "" {
		cmd.Env = append(cmd.Env, "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// releases is how many there are.
func (c *checkout) releases(t *testing.T) int {
	t.Helper()
	last := 1
	for _, f := range c.archive.Files {
		n, _ := nameOf(t, f.Name)
		last = max(last, n)
	}
	return last
}

func nameOf(t *testing.T, name string) (int, string) {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return 1, name
	}
	number, name, _ := strings.Cut(name[1:], " ")
	n, err := strconv.Atoi(number)
	if err != nil || name == "" {
		t.Fatalf("the project has a file %q", name)
	}
	return n, name
}

// release writes a release's files and commits them.
func (c *checkout) release(t *testing.T, number int) {
	t.Helper()
	do, date := "", ""
	for _, f := range c.archive.Files {
		n, name := nameOf(t, f.Name)
		switch {
		case n != number || name == "!args":
		case name == "!do":
			do = string(f.Data)
		case name == "!date":
			date = strings.TrimSpace(string(f.Data))
		case strings.HasPrefix(name, "-"):
			if err := os.Remove(filepath.Join(c.dir, name[1:])); err != nil {
				t.Fatal(err)
			}
		default:
			c.write(t, name, string(f.Data))
		}
	}
	if do != "" {
		c.sh(t, do, date)
	}
	if c.git {
		c.sh(t, "git add -A; git diff --cached --quiet || git commit -qm 'a release'", date)
	}
	c.look(t)
}

// look notes the times of all files in the context.
func (c *checkout) look(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(c.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var sum string
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			sum = "-> " + target
		case d.Type().IsRegular():
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			s := sha256.Sum256(data)
			sum = hex.EncodeToString(s[:])
		default:
			return nil
		}
		c.context[contextKey(sum, info.ModTime().Unix())] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// plain builds all units with plain BuildKit.
func (c *checkout) plain(t *testing.T, w *world, noCache bool) map[string]*built {
	t.Helper()
	out := map[string]*built{}
	for _, u := range c.units {
		file := u.dockerfile
		if file == "" {
			file = "Dockerfile"
		}
		text, err := os.ReadFile(filepath.Join(c.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		j := build.Job{Unit: c.name + "/" + u.name, Dockerfile: text, ContextDir: c.dir, Target: u.target, NoCache: noCache,
			Args: map[string]string{}, Contexts: c.forks}
		for name, value := range u.args {
			if file, ok := strings.CutPrefix(value, "@"); ok {
				data, err := os.ReadFile(filepath.Join(c.dir, file))
				if err != nil {
					t.Fatal(err)
				}
				value = strings.TrimSpace(string(data))
			}
			j.Args[name] = value
		}
		if u.parent != "" {
			j.Args["BASE_IMAGE"] = w.plain.name("out") + "@" + out[u.parent].digest.String()
		}
		if out[u.name], err = w.plain.build(t.Context(), j); err != nil {
			t.Fatalf("BuildKit: %v", err)
		}
	}
	return out
}

// aSecond is how long one release comes after the other: no file system and no
// archive takes their files for equally old.
const aSecond = 1100 * time.Millisecond

// images are what both sides have made of a release.
type images struct {
	*checkout
	w       *world
	m       *machine
	release int
	plain   map[string]*built
	strata  map[string]*picture
	steps   map[string]step
	said    map[string]string // what ask heard from a side
}

// run makes all releases of a project on both sides and compares each image.
func (p *project) run(t *testing.T, w *world, m *machine) {
	t.Helper()
	c := p.checkout(t, w)
	c.bringTo(t, m)
	var before *images
	for n := range c.releases(t) {
		if n > 0 {
			time.Sleep(aSecond)
		}
		c.release(t, n+1)
		now := c.both(t, w, m, n+1)
		now.compare(t, before)
		if p.ask != nil {
			p.ask(t, now, before)
		}
		before = now
	}
	for name, action := range c.steps {
		if s := before.steps[name+"/"+platform]; s.Action != action {
			t.Errorf("the last release of %s was to %s; it did %s (%s)", name, action, s.Action, s.Reason)
		}
	}
}

// both builds a release on both sides.
func (c *checkout) both(t *testing.T, w *world, m *machine, release int) *images {
	t.Helper()
	r := &images{checkout: c, w: w, m: m, release: release, strata: map[string]*picture{}, said: map[string]string{}}
	r.steps = m.build(t, c.dir, c.arguments(t, release)...)
	r.plain = c.plain(t, w, false)
	for _, u := range c.units {
		r.strata[u.name] = m.image(t, r.steps, u.name)
	}
	return r
}

// arguments are what a release's "!args" has for strata build.
func (c *checkout) arguments(t *testing.T, release int) []string {
	for _, f := range c.archive.Files {
		if n, name := nameOf(t, f.Name); n == release && name == "!args" {
			return strings.Fields(string(f.Data))
		}
	}
	return nil
}

// compare compares the images of a release, and with those of the one before.
func (r *images) compare(t *testing.T, before *images) {
	t.Helper()
	for _, u := range r.units {
		f := facts{r.started, r.context, r.holds, r.steps[u.name+"/"+platform].Action == "rebase"}
		want, got := r.plain[u.name].picture, r.strata[u.name]
		found := compare(want, got, f)
		if before != nil {
			found = append(found, compareReleases(before.plain[u.name].picture, want, before.strata[u.name], got)...)
		}
		for i := range found {
			found[i].path = fmt.Sprintf("%s (%s, release %d)", found[i].path, u.name, r.release)
		}
		if self := compare(want, want, f); failing(self) {
			t.Errorf("the harness: BuildKit's image differs from itself: %+v", self)
		}
		if ideal := compare(want, normalised(want, f), f); failing(ideal) {
			t.Errorf("the harness: %s as it is to be published differs from BuildKit's: %+v", u.name, ideal)
		}
		report(t, found)
	}
}

func failing(found []difference) bool {
	return slices.ContainsFunc(found, func(d difference) bool { return told[d.kind] == "" })
}

// tally counts findings by kind over all tests.
var tally tallies

type tallies struct {
	mu    sync.Mutex
	found map[string]map[string]int // by kind, by test
}

func (c *tallies) add(kind, test string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		c.found = map[string]map[string]int{}
	}
	if c.found[kind] == nil {
		c.found[kind] = map[string]int{}
	}
	c.found[kind][test] += n
}

// print writes a line for each kind.
func (c *tallies) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(c.found)) {
		n := 0
		for _, count := range c.found[kind] {
			n += count
		}
		note := ""
		if told[kind] != "" {
			note = " (told, no failure)"
		}
		fmt.Printf("times: %-10s %4d findings in %d tests%s\n", kind, n, len(c.found[kind]), note)
	}
}

// parallel lets all tests wait, for the clock and for a machine: machines bound
// what goes on at once.
func parallel() error {
	flag.Parse()
	return flag.Set("test.parallel", "100")
}
