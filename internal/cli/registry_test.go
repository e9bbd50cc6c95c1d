//go:build linux

package cli

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strata-build/strata/internal/registry/registrytest"
)

// faulty is a real registry that can be told to misbehave.
type faulty struct {
	*registrytest.Registry

	mu    sync.Mutex
	mode  string
	match *regexp.Regexp
}

// cmdRegistry starts a registry on a loopback port and puts its address into a
// variable: registry NAME.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 1, "registry NAME")
	f := &faulty{match: regexp.MustCompile("")}
	f.Registry = registrytest.With(ts.Value(tbKey{}).(testing.TB), registrytest.Options{
		Wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !f.fail(w, r) {
					next.ServeHTTP(w, r)
				}
			})
		},
	})
	registries.Store(ts.Getenv("WORK")+" "+args[0], f)
	ts.Setenv(args[0], f.Host)
}

// registries are the faulty ones, by script and name.
var registries sync.Map

func registryOf(ts *testscript.TestScript, name string) *faulty {
	f, ok := registries.Load(ts.Getenv("WORK") + " " + name)
	if !ok {
		ts.Fatalf("there is no registry %q", name)
	}
	return f.(*faulty)
}

// cmdFault makes a registry misbehave: fault NAME MODE [METHOD-AND-PATH], where
// MODE is an HTTP status, "wrongtype" (an answer that is no manifest), "cut" (the
// connection ends), "hang" (no answer), "stall" (half of one), "trickle" (a byte
// now and then) or "none", and the last a regular expression.
func cmdFault(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && (len(args) == 2 || len(args) == 3), "fault NAME MODE [METHOD-AND-PATH]")
	match := regexp.MustCompile("")
	if len(args) == 3 {
		var err error
		match, err = regexp.Compile(args[2])
		ts.Check(err)
	}
	f := registryOf(ts, args[0])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode, f.match = args[1], match
}

// fail answers a request wrongly, if it is meant.
func (f *faulty) fail(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	mode, match := f.mode, f.match
	f.mu.Unlock()
	if mode == "" || mode == "none" || !match.MatchString(r.Method+" "+r.URL.Path) {
		return false
	}
	io.Copy(io.Discard, r.Body)
	switch mode {
	case "cut":
		panic(http.ErrAbortHandler)
	case "hang":
		<-r.Context().Done()
		return true
	case "stall", "trickle":
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", "1000")
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			if mode == "stall" {
				<-r.Context().Done()
			}
			time.Sleep(100 * time.Millisecond)
		}
		return true
	case "wrongtype":
		w.Header().Set("Content-Type", "application/vnd.docker.plugin.v1+json")
		io.WriteString(w, `{"schemaVersion":1}`)
		return true
	case "401":
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	case "429":
		w.Header().Set("Retry-After", "3600")
	}
	var status int
	fmt.Sscan(mode, &status)
	w.WriteHeader(status)
	return true
}

// cmdRequests writes the requests since the last call to a file, a line each:
// requests NAME FILE.
func cmdRequests(ts *testscript.TestScript, neg bool, args []string) {
	mustUse(ts, !neg && len(args) == 2, "requests NAME FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(registryOf(ts, args[0]).TakeLog(), "\n")+"\n"), 0o644))
}
