// Package build runs the steps of a plan: a bounded scheduler over units, and
// the interface of the engine that builds what can't be reused or appended.
package build

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/event"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/times"
)

// An Engine turns a Dockerfile into an image. It is implemented over BuildKit,
// in-process or remote.
//
// When Build returns without an error, every blob of the image and its
// manifest are in the repository that the job names, or, when the job exports,
// the whole output was written, or, when the result is local, the engine has
// the manifest, the config and every layer that it did not take from a registry. A cancelled context ends every process that
// the job had started before Build returns.
type Engine interface {
	Build(ctx context.Context, j Job, s event.Sink) (Result, error)
}

// A Runner runs commands in images. Engines that can are Runners too.
//
// When Run returns without an error, the command has run to its end, whatever
// its exit code, and nothing of what it wrote to its file system is kept.
type Runner interface {
	Run(ctx context.Context, j RunJob, s event.Sink) (exitCode int, output []byte, err error)
}

// RunJob is a command to run in an image that was built: a test that must pass
// before a tag moves, or a look at what the image does.
type RunJob struct {
	Unit     string        // for events
	Image    string        // REPO@DIGEST
	Platform string        // "linux/arm64"
	Args     []string      // the command; empty is the image's own
	Env      []string      // "NAME=value", added to the image's
	User     string        // "" is the image's
	Dir      string        // "" is the image's
	Network  string        // "" and "host" are the host's; "none"
	Timeout  time.Duration // 0 is none
	Attach   *Attach       // nil: it reads nothing, and events tell what it writes
	Tables   times.Tables  // of the image's layers; may be nil
}

// Attach is what a command reads from and writes to in place of events.
type Attach struct {
	Stdin          io.ReadCloser
	Stdout, Stderr io.Writer
	TTY            bool              // the command has a terminal, and writes to Stdout alone
	Sizes          <-chan WindowSize // of the terminal, the first at once; may be nil
	Started        func()            // is called when everything is there and the command about to start; may be nil
}

// WindowSize is the size of a terminal in characters.
type WindowSize struct{ Columns, Rows int }

// Job is one Dockerfile to build for one platform. It is immutable.
type Job struct {
	Unit       string                   // for events
	Dockerfile []byte                   // its text; need not stand in a file
	Name       string                   // its path, for messages
	Ignore     []byte                   // text of its own ignore file; nil: the context's is in force
	ContextDir string                   // absolute; the build context
	Target     string                   // stage; "" is the last one
	Platform   string                   // "linux/arm64"
	Args       map[string]string        // build args
	Contexts   map[string]string        // named contexts: an absolute folder, or docker-image://REF@DIGEST
	Pins       map[string]digest.Digest // external image as written in the Dockerfile -> digest to use
	// Marks are numbers for files, by context ("" is the main one) and path in it.
	// They go into the key under which the engine keeps the results of what takes
	// the file, and nowhere else: for what the engine would not see.
	Marks map[string]map[string]uint64
	// Files are the digests of what the Dockerfile takes, by context and path, links
	// resolved. A file that has another when it is handed over fails the job.
	Files map[string]map[string]digest.Digest
	// Unchanged is asked whenever the engine was told what a context holds, and fails
	// the job unless that is what the job's key was made of. May be nil.
	Unchanged func(ctx context.Context, context string) error
	Secrets   []Secret
	SSH       []string // "default" or "id=path"
	Network   string   // "", "none" or "host"
	NoCache   bool
	CacheFrom []Cache
	CacheTo   []Cache
	// SourceDateEpoch is the time, in seconds, that the config says, and the
	// newest that files of new layers have. Nil leaves them as they come, unless
	// Args or the Dockerfile ask for one. RUNs see what these say, and not this.
	SourceDateEpoch *int64
	// EngineEpoch says that Args or the Dockerfile ask for a SOURCE_DATE_EPOCH that
	// only the engine can find out.
	EngineEpoch bool
	Compression string // "gzip" (default) or "zstd"
	Repository  string // REPO to push to, by digest: "ghcr.io/user/app"; "" when Run or Export is wanted alone
	Export      *Export

	// Times is what the published times of new layers follow from, where the engine
	// keeps the result to itself (Local). Other engines publish the times of their
	// steps.
	Times Times

	// Local lets an engine on this machine keep the image to itself in place of
	// pushing it; Result.Local says whether it did.
	Local bool
	// List is given the uncompressed archive of each new layer of a local image
	// while the engine compresses it. What it returns is called with the layer's
	// digest once that is known, unless it fails. It is not called for layers
	// that the engine had made before. May be nil.
	List func(archive io.Reader) (func(blob digest.Digest), error)
}

// Times is what the published times of a job's layers follow from. The zero value
// will do: then files of the context keep their times on disk.
type Times struct {
	Stamps times.Stamped // under which times files of the context are given to the engine
	Tables times.Tables  // of the layers of images that the Dockerfile stands on or copies from
	// Below gives the newest published time, in seconds, in the image that the job
	// stands on; 0 for none. It may read that image's blobs by open, which has them
	// without a registry once the steps have run. Nil means 0.
	Below func(ctx context.Context, open OpenBlob) (int64, error)
	// Last gives the full inventory of the unit's last image; nil without one.
	Last func(ctx context.Context) (*inventory.Inventory, error)
}

// OpenBlob opens a blob that an engine has on this machine.
type OpenBlob func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)

// Secret is one secret that RUN --mount=type=secret may read. One of Env and
// File is set. Values never reach an event, a record or a key.
type Secret struct {
	ID   string
	Env  string // name of an environment variable
	File string // path
}

// Cache is one of BuildKit's cache importers or exporters: type and attributes
// as in "type=registry,ref=...".
type Cache struct {
	Type  string
	Attrs map[string]string
}

// Export asks for the result as a stream as well.
type Export struct {
	Type string // "oci", "docker" or "tar"
	Name string // image name inside of the archive
	Open func() (io.WriteCloser, error)
}

// Result is what an engine built.
type Result struct {
	Manifest ocispec.Descriptor // of the pushed manifest: media type, digest, size
	Body     []byte             // the manifest itself
	Config   []byte             // the image config
	// Blob opens a blob of the image without asking a registry, where the
	// engine has it on this machine; nil for remote engines.
	Blob  OpenBlob
	Steps []Step // what the engine did, in order of completion
	// Tables are those of the layers of a local result that were made by it now or
	// before.
	Tables times.Tables
	Local  bool // nothing was pushed
	// Release lets go of a local result's blobs, which stay until then; nil when
	// there is nothing to let go of. What Blob has opened may still be read.
	Release func()
}

// Step is one finished step (vertex) of an engine's build.
type Step struct {
	Name    string
	Cached  bool
	Seconds float64
}
