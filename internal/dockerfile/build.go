package dockerfile

import (
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Options says for what a Dockerfile is analysed. The zero value is its last
// stage for linux/amd64 with no build args.
type Options struct {
	Target        string            // stage name or index; "" is the last
	Args          map[string]string // build args given
	Platform      string            // "linux/arm64": the platform built for
	BuildPlatform string            // of the machine that builds; default: Platform
	Contexts      map[string]bool   // named contexts that are images: they replace stages and images of that name
	Folders       map[string]bool   // named contexts that are folders
	// ParentArgs names args whose value is a parent's image: FROM ${BASE_IMAGE}
	// is then a From{Context: "arg:BASE_IMAGE"}, whatever its value.
	ParentArgs map[string]bool
	// OnBuild gives the ONBUILD triggers of bases, by [From.Name].
	OnBuild map[string][]string
	// Base gives the config of a base where it is known. Without it variables
	// that only the base can know are reported in Build.Unresolved.
	Base func(From) (Config, bool)
	// TrunkConfig is the config of the built trunk. With it the tail's
	// variables and history need no Base. It does not move the cut.
	TrunkConfig *Config
	// CopyFrom says whether the files that a COPY --from takes are available
	// without an engine, so that it may belong to the tail.
	CopyFrom func(CopySource) bool
}

// Config is what an analysis needs of an image's config.
type Config struct {
	Env        []string
	WorkingDir string
	Shell      []string
	OnBuild    []string
}

// CopySource is what a COPY --from takes, and from where.
type CopySource struct {
	Stage int    // index of the stage in the file; -1 when From is an image
	Name  string // as written in --from
	From  From   // the image, when Stage is -1
	Paths []string
	Dest  string
	Line  int
}

// Build is what one target of a Dockerfile says. It is immutable. A Stage in it
// is an index of StageNames, unless it says otherwise: stages that are not
// reached are not counted.
type Build struct {
	Syntax string // frontend named by "# syntax=" or BUILDKIT_SYNTAX, "" without one

	// Lines is the normal form of every reachable instruction, those of the
	// trunk first. ARG lines stand there only when the arg is used, and give the
	// default only when it is the value.
	Lines   []Line
	Froms   []From
	Inputs  []Input
	Remotes []Remote
	Args    []Arg // sorted by name and value

	Secrets     []string // ids, sorted
	SSH         []string // ids, sorted
	CacheMounts []string // ids, sorted

	FinalStage int      // index in the file
	StageNames []string // of the reachable stages in order, "" when unnamed

	Epoch      Epoch
	Trunk      *Trunk
	Needs      []Need       // what forces the engine in the final stage
	Unresolved []Unresolved // variables that only a base's config can tell
}

// Line is one instruction in normal form.
type Line struct {
	Stage     int // -1 before the first FROM
	StageName string
	Text      string
	Line      int
	Tail      bool // belongs to the tail, or to a stage or arg that only the tail uses
}

// Kinds of Froms.
const (
	KindFrom  = "from"
	KindCopy  = "copy"
	KindMount = "mount"
)

// From is an image that comes from outside of the Dockerfile.
type From struct {
	Image    string // as written, variables expanded; "" when Context is set
	Platform string
	Context  string // named context, or "arg:NAME" for a parent handed over as NAME
	Stage    int    // the stage that uses it
	Line     int
	Kind     string // KindFrom, KindCopy or KindMount
	Tail     bool   // only the tail needs it
}

// Name gives the image, or the context where there is one.
func (f From) Name() string {
	if f.Context != "" {
		return f.Context
	}
	return f.Image
}

// Scratch is the Image of a trunk that starts from nothing.
const Scratch = "scratch"

// Kinds of Inputs.
const (
	InputCopy = "copy"
	InputAdd  = "add"
	InputBind = "bind" // one literal path, no wildcard
	InputFrom = "from" // FROM a folder: all of it
)

// Input is what one instruction takes from a build context.
type Input struct {
	Context  string // "" is the main one
	Patterns []string
	Excludes []string
	Parents  bool
	Line     int
	Kind     string
	Stage    int
	Tail     bool
}

// Remote is an ADD of a URL or of a git repository.
type Remote struct {
	URL      string
	Checksum string // digest of the file, or commit
	Line     int
	Keyed    bool // its content follows from what is declared
	Tail     bool
}

// Arg is a build arg that is used, with its value.
type Arg struct {
	Name    string
	Value   string
	Default bool // the value comes from the Dockerfile or from the platform
	Parent  bool // the value names a parent's image: key the parent instead
	Tail    bool // only the tail uses it
}

// Unresolved is a variable whose value only the config of a base can tell.
type Unresolved struct {
	Name  string
	Line  int
	Stage int
	From  From // the base
	// Input says that what the unit reads depends on it: no key can be made
	// before it is known. Otherwise the base's key stands for it.
	Input bool
}

// Trunk is where the engine's part of the final stage ends. The cut does not
// depend on what Options.Base or Options.TrunkConfig say, the ONBUILD triggers of
// a base aside.
type Trunk struct {
	Lines  int    // how many of Build.Lines are trunk
	Source []byte // Dockerfile that builds the trunk as its last stage; nil when Empty
	Empty  bool   // nothing for an engine to do: the trunk is From
	From   From   // what the chain of the final stage stands on; Image Scratch for nothing, none for a folder
	// DropOnBuild says that ONBUILD triggers in the trunk's config do not carry
	// over to the result.
	DropOnBuild bool
	Tail        []TailCommand
}

// TailCommand is one instruction of the tail, variables expanded where BuildKit
// expands them.
type TailCommand struct {
	Line    int
	Stage   int
	Command instructions.Command
	Inputs  []Input // one for a COPY or ADD that reads files; none for heredocs alone
	Copy    *CopySource
	Chmod   []Chmod // a RUN that only changes modes and owners
	// History is what BuildKit records as created_by; "" for ONBUILD, which
	// leaves no entry. It is exact when TrunkConfig, or Base, is given.
	History string
	Layer   bool // BuildKit would make a layer for it
	// CmdSet says, for ENTRYPOINT, that a CMD stands before it in its stage:
	// the CMD is then kept, otherwise reset.
	CmdSet bool
}

// Chmod is one "chmod" or "chown" of a RUN in the tail. Its paths were copied
// by the tail as far as the Dockerfile says; whoever runs it has to see that
// each path exists in the tail, that nothing else lies below a recursive one,
// and that the effective user is root.
type Chmod struct {
	Mode      string // octal or symbolic; "" for chown
	Owner     string // user[:group]; "" for chmod
	Recursive bool
	Paths     []string // absolute
}

// Need is an instruction of the final stage that forces the engine.
type Need struct {
	Line        int
	Instruction string // in normal form, shortened
	Why         string
	Instead     string // smallest edit that would avoid it; "" when there is none
	Rerun       bool   // it runs again whenever copied files of the context change
}

// HasText says whether the instruction makes a file of a text in the Dockerfile.
func (t TailCommand) HasText() bool {
	switch c := t.Command.(type) {
	case *instructions.CopyCommand:
		return len(c.SourceContents) > 0
	case *instructions.AddCommand:
		return len(c.SourceContents) > 0
	}
	return false
}
