//go:build linux

package times

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/registry"
)

// side is one way to a container of an image.
type side struct {
	name string
	run  func(args ...string) (string, int)
}

// sides are the ways to a unit's container: plain BuildKit's image, Strata's
// where it was built, and Strata's as somebody has it who pulls what was
// published.
func (r *images) sides(t *testing.T, unit string) []side {
	t.Helper()
	at := r.published(t, unit)
	return []side{
		{"BuildKit", func(args ...string) (string, int) { return r.w.plain.command(t, r.plain[unit], args...) }},
		{"Strata", func(args ...string) (string, int) { return r.m.command(t, r.dir, unit, args...) }},
		{"Strata, pulled", func(args ...string) (string, int) { return r.w.plain.runAt(t, at, args...) }},
	}
}

// published copies Strata's image to the reference's registry, beside the base
// that it stands on, and gives its name there.
func (r *images) published(t *testing.T, unit string) string {
	t.Helper()
	p := r.strata[unit]
	repo, _, _ := strings.Cut(r.bases[0], ":")
	to, err := registry.ParseRef(registry.EmbeddedHost + "/docker.io/library/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append(p.manifest.Layers[:len(p.manifest.Layers):len(p.manifest.Layers)], p.manifest.Config) {
		has, err := r.w.plain.client.HasBlob(t.Context(), to, d)
		if err == nil && !has {
			err = r.w.plain.client.PushBlob(t.Context(), to, d, func() (io.ReadCloser, error) { return r.m.client.Blob(t.Context(), p.ref, d) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.w.plain.client.PutManifest(t.Context(), to.WithDigest(digest.FromBytes(p.body)), p.manifest.MediaType, p.body); err != nil {
		t.Fatal(err)
	}
	return r.w.plain.name("docker.io/library/"+repo) + "@" + p.digest.String()
}

func (r *reference) runAt(t *testing.T, at string, args ...string) (string, int) {
	t.Helper()
	code, out, err := r.engine.Run(t.Context(), build.RunJob{Unit: "reference", Image: at, Platform: platform, Args: args}, event.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), code
}

// sameIn asks a command in all containers, and fails where Strata's say
// something else than BuildKit's, or BuildKit's not what was expected.
func sameIn(unit, script, want string) func(t *testing.T, now, _ *images) {
	return func(t *testing.T, now, _ *images) {
		t.Helper()
		for _, s := range now.sides(t, unit) {
			out, code := s.run("sh", "-c", script)
			if d := cmp.Diff(strings.ReplaceAll(strings.TrimSpace(want), "RELEASE", strconv.Itoa(now.release)), strings.TrimSpace(out)); d != "" || code != 0 {
				tally.add("consumer", t.Name(), 1)
				t.Errorf("release %d, %s: %.150q ended with %d (-want +got):\n%s", now.release, s.name, script, code, d)
			}
		}
	}
}

// pycs prints how many compiled modules Python would not use.
const pycs = `import os, struct, sys
total, stale = 0, []
for top in sys.argv[1:]:
    for folder, _, names in os.walk(top):
        for name in names:
            if not name.endswith(".pyc") or os.path.basename(folder) != "__pycache__":
                continue
            with open(os.path.join(folder, name), "rb") as f:
                flags, time, size = struct.unpack("<III", f.read(16)[4:])
            source = os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py")
            if flags & 1 or not os.path.exists(source):
                continue
            total += 1
            s = os.stat(source)
            if (int(s.st_mtime), s.st_size) != (time, size):
                stale.append(source)
print("compiled" if total else "nothing compiled", "stale=%d" % len(stale), *stale[:3])
`

// sources is a Python module in two releases of one size.
const modules = "-- lib/demo.py --\nVALUE = 1\n-- @2 lib/demo.py --\nVALUE = 2\n"

var (
	tools  = []string{"tools:1"}
	debian = []string{"debian:bookworm-slim"}
)

const importDemo = `PYTHONPATH=/lib-x python3 -B -v -c 'import demo; print("value", demo.VALUE)' 2>&1 | grep -oE 'bytecode is stale|matches /lib-x/demo.py|^value .*' | grep -v matches; true`

var consumers = []project{
	{name: "make", bases: tools, cached: true, files: "-- Dockerfile --\nFROM tools:1\nWORKDIR /w\nCOPY src/ .\nRUN --mount=type=cache,target=/obj,id=make make\nRUN --mount=type=cache,target=/obj,id=make make >/seen; cat app >/seen-app\n" +
		"-- src/Makefile --\napp: /obj/main.o\n\tcp $< $@\n/obj/main.o: main.c\n\tcp $< $@\n" + three},
	{name: "make-in-layer", bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nWORKDIR /w\nCOPY src/ .\nRUN make\n-- Dockerfile --\n" + child + "RUN make >/seen; cp app /seen-app\n" +
			"-- src/Makefile --\napp: main.o\n\tcp $< $@\nmain.o: main.c\n\tcp $< $@\n" + three,
		ask: sameIn("app", "cd /w && make", "make: 'app' is up to date.")},
	{name: "make-child-edits", bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nWORKDIR /w\nCOPY src/ .\nRUN make\n-- Dockerfile --\n" + child + "COPY over/ /w/\nRUN make >/seen; cp app /seen-app\n" +
			"-- src/Makefile --\napp: main.o\n\tcp $< $@\nmain.o: main.c\n\tcp $< $@\n-- src/main.c --\nv0\n-- over/main.c --\nv1\n-- @2 over/main.c --\nv2\n"},
	{name: "ninja", bases: tools, cached: true, holds: []string{"w/.ninja_log", "w/.ninja_deps"}, files: "-- Dockerfile --\nFROM tools:1\nWORKDIR /w\nCOPY src/ .\nRUN --mount=type=cache,target=/obj,id=ninja ninja; ninja -d explain >/seen 2>&1; cat app >/seen-app\n" +
		"-- src/build.ninja --\nrule cp\n  command = cp $in $out\nbuild app: cp /obj/main.o\nbuild /obj/main.o: cp main.c\n" + three},
	{name: "ninja-in-layer", bases: tools, holds: []string{"w/.ninja_log", "w/.ninja_deps"}, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nWORKDIR /w\nCOPY src/ .\nRUN ninja\n-- Dockerfile --\n" + child + "RUN ninja -d explain >/seen 2>&1; cp app /seen-app\n" +
			"-- src/build.ninja --\nrule cp\n  command = cp $in $out\nbuild app: cp main.o\nbuild main.o: cp main.c\n" + three,
		ask: sameIn("app", "cd /w && ninja", "ninja: no work to do.")},
	{name: "python-run", bases: tools, files: "-- Dockerfile --\nFROM tools:1\nRUN mkdir /lib-x && echo 'VALUE = 1' >/lib-x/demo.py && python3 -m compileall -q /lib-x\n",
		ask: sameIn("app", importDemo, "value 1")},
	{name: "python-compiled", bases: tools, files: "-- Dockerfile --\nFROM tools:1\nCOPY lib /lib-x\nRUN python3 -m compileall -q /lib-x\nRUN { " + importDemo + "; } >/seen\n" + modules,
		ask: sameIn("app", importDemo+"; python3 -B -c '"+pycs+"' /lib-x", "value RELEASE\ncompiled stale=0")},
	{name: "python-copied-twice", bases: tools, files: "-- Dockerfile --\nFROM tools:1\nCOPY lib /lib-x\nRUN python3 -m compileall -q /lib-x\nCOPY lib /lib-x\n" + modules,
		ask: sameIn("app", importDemo+"; python3 -B -c '"+pycs+"' /lib-x", "value RELEASE\ncompiled stale=0")},
	{name: "python-parent", git: true, bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nCOPY lib /lib-x\nRUN python3 -m compileall -q /lib-x\n-- Dockerfile --\n" + child + "RUN { " + importDemo + "; } >/seen\n" + modules,
		ask:   sameIn("app", importDemo, "value RELEASE")},
	{name: "python-over", bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nCOPY old /lib-x\nRUN python3 -m compileall -q /lib-x\n-- Dockerfile --\n" + child + "COPY lib /lib-x\nRUN { " + importDemo + "; } >/seen\n-- old/demo.py --\nVALUE = 0\n-- !do --\ntouch -d '1 hour ago' old/demo.py\n" + modules,
		ask:   sameIn("app", importDemo, "bytecode is stale\nvalue RELEASE")},
	{name: "python-over-appended", bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nCOPY old /lib-x\nRUN python3 -m compileall -q /lib-x\n-- Dockerfile --\n" + child + "COPY lib /lib-x\n-- old/demo.py --\nVALUE = 0\n-- !do --\ntouch -d '1 hour ago' old/demo.py\n" + modules,
		ask:   sameIn("app", importDemo, "bytecode is stale\nvalue RELEASE")},
	{name: "pip", bases: tools, holds: []string{"wheels"},
		files: "-- Dockerfile --\nFROM tools:1\nCOPY pkg /pkg\nRUN cp -r /pkg /tmp/pkg && pip wheel -q --no-deps --no-index --no-build-isolation -w /wheels /tmp/pkg && rm -r /tmp/pkg\n" +
			"RUN pip install -q --no-index --break-system-packages --root-user-action ignore /wheels/*.whl\nRUN python3 -B -v -c 'import demo' 2>&1 | grep -oE 'bytecode is stale' >/seen; true\n" +
			"-- pkg/setup.py --\nfrom setuptools import setup\nsetup(name='demo', version='1', packages=['demo'])\n-- pkg/demo/__init__.py --\nfrom demo.part import VALUE\n-- pkg/demo/part.py --\nVALUE = 1\n-- @2 pkg/demo/part.py --\nVALUE = 2\n",
		ask: sameIn("app", "python3 -B -c '"+pycs+"' /usr/local/lib && python3 -c 'import demo; print(demo.VALUE)'", "compiled stale=0\nRELEASE")},
	{name: "apt", bases: debian, files: "-- Dockerfile --\nFROM debian:bookworm-slim\nRUN apt-get -q update && apt-get -qy --no-install-recommends install python3-minimal python3-yaml python3-six python3-idna\n",
		holds: []string{"etc/ld.so.cache", "var/cache/debconf", "var/lib/dpkg/triggers", "var/lib/apt"},
		ask:   sameIn("app", "python3 -B -c '"+pycs+"' /usr", "compiled stale=0")},
	{name: "zip-of-layer", bases: tools, yaml: parentYAML, units: parentUnits, holds: []string{"z1.zip", "z2.zip", "z3.zip"},
		files: "-- src/f.py --\nprint(1)\n-- Dockerfile.base --\nFROM tools:1\nCOPY src /src\nRUN cp /src/f.py /src/made.py\n-- Dockerfile --\n" + child +
			"RUN python3 -c 'import shutil; shutil.make_archive(\"/z1\", \"zip\", \"/src\")' && python3 -m zipfile -c /z2.zip /src && TZ=America/Los_Angeles zip -qr /z3.zip /src && unzip -Z1 /z3.zip | sort >/seen\n",
		ask: sameIn("app", "TZ=PST8 python3 -c 'import shutil, os; shutil.make_archive(\"/tmp/x\", \"zip\", \"/src\"); shutil.make_archive(\"/tmp/y\", \"zip\", \"/etc/nginx\")' && echo done", "done")},
	{name: "serve-copied", bases: tools, files: "-- Dockerfile --\nFROM tools:1\nCOPY dist /srv\nCOPY serve.py sync.py /\n" + site("dist/page.html"), ask: servesAndSyncs},
	{name: "serve-made", bases: tools, files: "-- Dockerfile --\nFROM tools:1\nCOPY serve.py sync.py /\nCOPY src /src\nRUN mkdir -p /srv && cp /src/page.html /srv/page.html\n" + site("src/page.html"), ask: servesAndSyncs},
	{name: "serve-stage", bases: tools, git: true, files: "-- Dockerfile --\nFROM tools:1 AS build\nCOPY src /src\nRUN mkdir /dist && cp /src/page.html /dist/page.html\nFROM tools:1\nCOPY serve.py sync.py /\nCOPY --from=build /dist /srv\n" + site("src/page.html"), ask: servesAndSyncs},
	{name: "serve-parent", bases: tools, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM tools:1\nCOPY serve.py sync.py /\nCOPY src /src\nRUN mkdir -p /srv && cp /src/page.html /srv/page.html\n-- Dockerfile --\n" + child + "RUN echo 1 >/other\n" + site("src/page.html"), ask: servesAndSyncs},
}

// site is a page in three releases of one size, and the programs that try it.
func site(page string) string {
	return "-- " + page + " --\n<script src=a1.js>\n-- @2 " + page + " --\n<script src=b2.js>\n-- @3 " + page + " --\n<script src=c3.js>\n-- serve.py --\n" + servePy + "-- sync.py --\n" + syncPy
}

// servePy asks nginx and Python's http.server for the page, without and with the
// validators that the release before gave, and prints status and validators.
const servePy = `import functools, http.client, http.server, json, os, socket, subprocess, sys, threading, time
known = json.loads(sys.argv[1])
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/tmp/nginx")
open("/tmp/nginx.conf", "w").write("""daemon off; user root; error_log /tmp/log; pid /tmp/pid;
events {} http { access_log off; server { listen unix:/tmp/nginx; root /srv; } }""")
nginx = subprocess.Popen(["nginx", "-c", "/tmp/nginx.conf"], stderr=subprocess.DEVNULL)
for _ in range(100):
    try:
        Unix("localhost").connect()
        break
    except OSError: # it is there before anybody listens
        time.sleep(0.05)
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory="/srv"))
threading.Thread(target=server.serve_forever, daemon=True).start()
out = {}
for name, make in (("nginx", lambda: Unix("localhost")), ("python", lambda: http.client.HTTPConnection(*server.server_address))):
    def ask(headers):
        c = make()
        c.request("GET", "/page.html", headers=headers)
        r = c.getresponse()
        return r, r.read().decode()
    r, body = ask({})
    if r.status != 200: sys.exit("%s: %d" % (name, r.status))
    out[name] = {"time": r.getheader("Last-Modified"), "tag": r.getheader("ETag") or "", "answers": []}
    for old in known.get(name, []):
        headers = [{"If-Modified-Since": old["time"]}]
        if old["tag"]: headers.append({"If-None-Match": old["tag"]})
        for h in headers:
            r, got = ask(h)
            out[name]["answers"].append(r.status == 200 and got == body)
nginx.kill()
print(json.dumps(out))
`

// syncPy brings the page into a folder that has it as the release before had it,
// by programs that copy what is newer.
const syncPy = `import json, os, subprocess, sys
known = json.loads(sys.argv[1])
new = open("/srv/page.html").read()
out = []
for command in ("cp -u", "cp -pu", "rsync -u", "rsync -tu", "rsync -a"):
    for n, old in enumerate(known):
        folder = "/tmp/volume"
        os.makedirs(folder, exist_ok=True)
        open(folder + "/page.html", "w").write(old["text"])
        os.utime(folder + "/page.html", (old["time"], old["time"]))
        subprocess.run(command.split() + ["/srv/page.html", folder + "/page.html"], check=True)
        if open(folder + "/page.html").read() != new: out.append(command)
print(json.dumps({"text": new, "time": int(os.stat("/srv/page.html").st_mtime), "stale": out}))
`

// servesAndSyncs asks each side's container of a release with what the one
// before has given: a page that changed is sent and copied.
func servesAndSyncs(t *testing.T, now, before *images) {
	t.Helper()
	for _, s := range now.sides(t, "app") {
		for _, script := range []string{"serve", "sync"} {
			key := s.name + " " + script
			known := "{}"
			if script == "sync" {
				known = "[]"
			}
			if before != nil {
				known = before.said[key]
			}
			out, code := s.run("python3", "-B", "/"+script+".py", known)
			if code != 0 {
				tally.add("consumer", t.Name(), 1)
				t.Errorf("release %d, %s: %s.py ended with %d: %s", now.release, s.name, script, code, out)
				continue
			}
			now.said[key] = heard(t, now.release, s.name, script, out)
		}
	}
}

// heard judges an answer, and gives what the next release is asked with.
func heard(t *testing.T, release int, side, script, out string) string {
	t.Helper()
	wrong := func(format string, args ...any) {
		t.Helper()
		tally.add("consumer", t.Name(), 1)
		t.Errorf("release %d, %s: "+format, append([]any{release, side}, args...)...)
	}
	decode := func(into any) {
		t.Helper()
		if err := json.NewDecoder(bytes.NewReader([]byte(out))).Decode(into); err != nil {
			t.Fatalf("reading what %s.py said: %v\n%s", script, err, out)
		}
	}
	var next any
	if script == "sync" {
		var answer struct {
			Text  string   `json:"text"`
			Time  int64    `json:"time"`
			Stale []string `json:"stale"`
		}
		decode(&answer)
		if len(answer.Stale) > 0 {
			wrong("left the old page in a volume: %q", answer.Stale)
		}
		next = []any{answer}
	} else {
		var answer map[string]struct {
			Time    string `json:"time"`
			Tag     string `json:"tag"`
			Answers []bool `json:"answers"`
		}
		decode(&answer)
		known := map[string][]any{}
		for name, a := range answer {
			for _, fresh := range a.Answers {
				if !fresh {
					wrong("%s says that the page did not change; now it has %s %s", name, a.Time, a.Tag)
					break
				}
			}
			known[name] = []any{a}
		}
		next = known
	}
	data, err := json.Marshal(next)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestConsumers(t *testing.T) {
	t.Parallel()
	for i := range consumers {
		p := &consumers[i]
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			p.run(t, w, w.takeLarge(t))
		})
	}
}
