package crash

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shaky stands before a registry and spoils one request in ten.
type shaky struct {
	registry http.Handler

	mu     sync.Mutex
	random *rand.Rand
	off    bool
	seen   map[string]int // faults by name
}

var faults = []string{"500", "502 after a part", "429", "cut before", "cut after", "cut in the upload", "cut in the answer", "short answer", "other bytes", "other digest", "twice", "slow"}

func (s *shaky) pick() (fault string, part float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off || s.random.IntN(10) > 0 {
		return "", 0
	}
	fault = faults[s.random.IntN(len(faults))]
	s.seen[fault]++
	return fault, s.random.Float64()
}

func (s *shaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, part := s.pick()
	switch fault {
	case "":
		s.registry.ServeHTTP(w, r)
		return
	case "500":
		w.WriteHeader(http.StatusInternalServerError)
		return
	case "502 after a part":
		_, _ = io.CopyN(io.Discard, r.Body, int64(part*1000))
		w.WriteHeader(http.StatusBadGateway)
		return
	case "429":
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case "cut before":
		panic(http.ErrAbortHandler)
	case "cut in the upload": // the registry gets a part of it
		if r.Method != http.MethodPut && r.Method != http.MethodPatch && r.Method != http.MethodPost {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, int64(part*float64(max(r.ContentLength, 1)))), broken{}))
		s.registry.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case "slow":
		time.Sleep(time.Duration(part * float64(300*time.Millisecond)))
		s.registry.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	again := func() *httptest.ResponseRecorder {
		rec, req := httptest.NewRecorder(), r.Clone(r.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
		s.registry.ServeHTTP(rec, req)
		return rec
	}
	got := again()
	answer := got.Body.Bytes()
	length := len(answer)
	switch fault {
	case "cut after":
		panic(http.ErrAbortHandler)
	case "twice":
		got = again()
		answer = got.Body.Bytes()
		length = len(answer)
	case "other bytes":
		if answer = bytes.Clone(answer); length > 0 {
			answer[int(part*float64(length))] ^= 1
		}
	case "other digest":
		if got.Header().Get("Docker-Content-Digest") != "" {
			got.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
		}
	case "short answer", "cut in the answer":
		answer = answer[:int(part*float64(length))]
	}
	for k, v := range got.Header() {
		w.Header()[k] = v
	}
	if r.Method != http.MethodHead && fault != "cut in the answer" {
		w.Header().Set("Content-Length", strconv.Itoa(length)) // of "short answer" more than comes
	}
	w.WriteHeader(got.Code)
	_, _ = w.Write(answer)
	if fault == "cut in the answer" {
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
}

// broken is a body that ends in the middle.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// With a registry of which one answer in ten is none, or a wrong one, a command
// does what it was asked for or says which registry failed it; and at no moment does
// a tag lead to something that is not whole, or to another image than it would else.
func TestShakyRegistry(t *testing.T) {
	t.Parallel()
	rounds := 6
	if s := os.Getenv("CRASH_FAULTS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	random := seed(t)
	w, calm := newWorld(t, random), newWorld(t, random)
	s := &shaky{registry: w.store, random: random, seen: map[string]int{}, off: true}
	w.front.registry = s
	for _, v := range []*world{w, calm} {
		v.run("build", "--push", "--tag-version", "r0")
		v.run("promote", "r0", "dev", "--push")
	}
	done, failed := map[string]int{}, map[string]int{}
	shaken := func(again bool, args ...string) {
		t.Helper()
		s.mu.Lock()
		s.off = false
		s.mu.Unlock()
		cmd, out := w.command(args...)
		err := cmd.Run()
		s.mu.Lock()
		s.off = true
		s.mu.Unlock()
		w.front.rest(t)
		w.whole()
		if err == nil {
			done[args[0]]++
			return
		}
		failed[args[0]]++
		if text := out.String(); !strings.Contains(text, w.host) || !strings.Contains(text, "strata: error: ") || strings.Contains(text, "panic") {
			t.Errorf("strata %s failed, and does not say what of:\n%s", strings.Join(args, " "), text)
		}
		if again {
			w.run(args...)
		}
	}
	held := "r0"
	for i := 1; i <= rounds && !t.Failed(); i++ {
		version := fmt.Sprint("r", i)
		args := []string{"build", "--push", "--tag-version", version}
		w.edit(version)
		calm.edit(version)
		shaken(false, "plan", "--push")
		shaken(true, args...)
		calm.run(args...)
		for _, name := range release(version) {
			if diff := cmp.Diff(calm.files(name), w.files(name)); diff != "" {
				t.Errorf("%s has other files than where nothing fails (-):\n%s", name, diff)
			}
		}
		if err := stands(w.whole(), release("latest"), release(version)); err != nil {
			t.Error(err)
		}

		home := w.env
		w.env = append(slices.Clone(home), "STRATA_HOME="+filepath.Join(w.dir, "pulled", version))
		shaken(false, "pull")
		w.run("pull") // an image that came broken counts as one that is not there
		if out := w.run("plan"); !strings.Contains(out, "Nothing to do") {
			t.Errorf("what was pulled is not what is there:\n%s", out)
		}
		w.env = home

		shaken(true, "promote", version, "dev", "--push")
		tags := w.whole()
		between(w, tags, held, version)
		if err := stands(tags, release("dev"), release(version)); err != nil {
			t.Error(err)
		}
		w.finished(tags)
		held = version
	}
	w.allWhole()
	t.Logf("done %v, failed %v, faults %v", done, failed, s.seen)
	if len(s.seen) < len(faults)/2 {
		t.Errorf("there were faults of %d kinds", len(s.seen))
	}
}

// files gives the files in the layers of an image, or of all in an index, without
// their times: those follow from the last image, and one that comes over the wire
// broken counts as none.
func (w *world) files(name string) []string {
	w.t.Helper()
	repo, _, _ := strings.Cut(name, ":")
	var out []string
	for _, d := range w.content(name) {
		r, err := w.client.Blob(w.t.Context(), w.ref(repo), ocispec.Descriptor{Digest: digest.Digest(d)})
		if err != nil {
			w.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			continue // a config
		}
		out = append(out, "a layer")
		for tr := tar.NewReader(z); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			text, err2 := io.ReadAll(tr)
			if err != nil || err2 != nil {
				w.t.Fatal(err, err2)
			}
			out = append(out, fmt.Sprintf("%s %o %q", h.Name, h.Mode, text))
		}
	}
	return out
}
