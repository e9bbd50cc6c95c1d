package registry

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the store is a folder
	"github.com/gofrs/flock"
	"github.com/sirupsen/logrus"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/serve"
)

// Embedded is a registry over a folder. Any number of processes may have it
// open and read and write it at once: content lands by renaming, so nobody
// sees half of it. Only [Embedded.GC] needs the folder for itself; a lock on
// the file "lock", shared by users and exclusive for GC, sees to that.
type Embedded struct {
	dir     string
	app     *handlers.App
	lock    *flock.Flock
	serving sync.RWMutex   // held for reading by each request, for writing by GC
	wg      sync.WaitGroup // in-process requests under way
	tags    sync.Mutex     // with the file "tags.lock": read-modify-write of a tag
	closed  sync.Once
}

// OpenEmbedded opens the registry in dir, which it makes if need be. It fails
// while another process collects garbage there, after waiting a little.
func OpenEmbedded(dir string) (*Embedded, error) {
	hushGlobal()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the embedded registry: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the embedded registry: %w", err)
	}
	e := &Embedded{dir: dir, lock: flock.New(filepath.Join(dir, "lock"))}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	if _, err := e.lock.TryRLockContext(ctx, 20*time.Millisecond); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = diag.Hint(errors.New("its garbage is being collected"), "try again when the other process is done: strata store")
		}
		return nil, fmt.Errorf("opening the embedded registry %q: %w", dir, err)
	}
	if e.app, err = newApp(dir); err != nil {
		e.lock.Close()
		return nil, fmt.Errorf("opening the embedded registry %q: %w", dir, err)
	}
	return e, nil
}

// newApp configures distribution: no descriptor cache, because other processes
// change the folder too; no purging of uploads, which GC does; URLs relative,
// because the host name depends on who asks.
func newApp(dir string) (app *handlers.App, err error) {
	defer func() { // NewApp panics on what it does not like
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  {"rootdirectory": dir},
		"delete":      {"enabled": true},
		"redirect":    {"disable": true},
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = rand.Text() // signs the state of uploads, which live in one process
	config.HTTP.RelativeURLs = true
	config.Catalog.MaxEntries = 1000
	return handlers.NewApp(quiet{context.Background()}, config), nil
}

// Dir gives the folder.
func (e *Embedded) Dir() string { return e.dir }

// Close waits for requests under way and gives the folder free.
func (e *Embedded) Close() error {
	var err error
	e.closed.Do(func() {
		e.wg.Wait()
		err = errors.Join(e.app.Shutdown(), e.lock.Close())
	})
	return err
}

// ServeHTTP serves the distribution API.
func (e *Embedded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.serving.RLock()
	defer e.serving.RUnlock()
	if keepsMirrors(w, r) {
		return
	}
	r = e.dropCorrupt(r)
	e.app.ServeHTTP(w, r.WithContext(quiet{r.Context()}))
}

// lockTags keeps every process but this goroutine from changing a tag that it
// has read before.
func (e *Embedded) lockTags(ctx context.Context) (unlock func(), err error) {
	e.tags.Lock()
	file := flock.New(filepath.Join(e.dir, "tags.lock"))
	if _, err := file.TryLockContext(ctx, 5*time.Millisecond); err != nil {
		e.tags.Unlock()
		return nil, fmt.Errorf("locking the tags of the embedded registry: %w", err)
	}
	return func() { file.Close(); e.tags.Unlock() }, nil
}

// Access says who may use the registry on a port, and for what.
type Access struct {
	Names    []string     // of this machine, besides localhost and the address asked
	ReadOnly bool         // nothing is written or deleted
	Users    *serve.Users // who must know a password; nil asks nobody
	TLS      *tls.Config  // HTTPS in place of HTTP
}

// Listen serves the registry over http on addr ("127.0.0.1:0" for any free
// port of this machine) until the server is closed, to whoever reaches it there
// by a name of this machine.
func (e *Embedded) Listen(addr string) (*serve.Server, error) { return e.ListenFor(addr, Access{}) }

// ListenFor is Listen for those that a says.
func (e *Embedded) ListenFor(addr string, a Access) (*serve.Server, error) {
	methods := []string{http.MethodGet, http.MethodHead}
	if !a.ReadOnly {
		methods = append(methods, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete)
	}
	s, err := serve.Listen(addr, e, serve.Options{
		Names: a.Names, Methods: methods, Users: a.Users, TLS: a.TLS, Refuse: refuse(a.ReadOnly),
	})
	if err != nil {
		return nil, fmt.Errorf("serving the embedded registry on %q: %w", addr, err)
	}
	return s, nil
}

// refuse answers as the distribution specification has errors.
func refuse(readOnly bool) func(http.ResponseWriter, int, string) {
	return func(w http.ResponseWriter, status int, why string) {
		code := "DENIED"
		switch status {
		case http.StatusUnauthorized:
			code = "UNAUTHORIZED"
		case http.StatusMethodNotAllowed:
			code = "UNSUPPORTED"
			if readOnly {
				why = "this registry can only be read"
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.WriteHeader(status)
		type one struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		_ = json.NewEncoder(w).Encode(map[string][]one{"errors": {{code, why}}}) // a client that went away
	}
}

// hushGlobal keeps what distribution writes straight to logrus' global logger off the
// terminal, unless somebody has taken that logger.
var hushGlobal = sync.OnceFunc(func() {
	if logrus.StandardLogger().Out == os.Stderr {
		logrus.SetOutput(io.Discard)
	}
})

// quiet is a context in which distribution logs nothing. Distribution takes
// its logger from the context, under a key of an internal package, and falls
// back to logrus' global one, which writes to stderr and belongs to the
// engine. So the key is recognised by its name; TestQuiet notices if it
// changes.
type quiet struct{ context.Context }

var silent = func() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return logrus.NewEntry(l)
}()

// Value implements context.Context.
func (q quiet) Value(key any) any {
	if v := q.Context.Value(key); v != nil {
		return v
	}
	if t := reflect.TypeOf(key); t.Name() == "loggerKey" && strings.HasSuffix(t.PkgPath(), "/internal/dcontext") {
		return silent
	}
	return nil
}
