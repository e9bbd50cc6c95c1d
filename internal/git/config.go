package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strata-build/strata/internal/diag"
)

// allowed are the settings that git sees: section and name, with * for what stands
// between them. They say how the files of a work tree compare with commits, how
// much memory git may take, how long an abbreviated hash is, and where remotes
// are. None of them names a program, or a folder to write to. Whether time stamps
// may be left out of the comparison (core.trustctime, core.checkStat) is not for
// the repository to say.
var allowed = map[string]bool{
	"core.repositoryformatversion": true,
	"core.filemode":                true, "core.ignorecase": true, "core.precomposeunicode": true, "core.symlinks": true,
	"core.autocrlf": true, "core.eol": true, "core.checkroundtripencoding": true, "core.attributesfile": true,
	"core.sparsecheckout": true, "core.sparsecheckoutcone": true, "core.longpaths": true, "core.abbrev": true,
	"core.bigfilethreshold": true, "core.packedgitwindowsize": true, "core.packedgitlimit": true, "core.deltabasecachelimit": true,
	"core.commitgraph": true, "core.multipackindex": true,
	"extensions.objectformat": true, "extensions.compatobjectformat": true, "extensions.refstorage": true,
	"extensions.noop": true, "extensions.preciousobjects": true, "extensions.relativeworktrees": true,
	"remote.*.url": true, "url.*.insteadof": true,
}

// own are the settings that hold whatever others say.
const own = `[core]
	bare = false
	fsmonitor = false
	hooksPath = /dev/null
	quotePath = false
[protocol]
	allow = never
[maintenance]
	auto = false
[gc]
	auto = 0
`

// userSettings are the variables that git's own look at the user's settings gets.
var userSettings = []string{
	"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT",
	"GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_",
}

// setting is one line of a config.
type setting struct {
	key    string // "remote.origin.url": section and name in small letters
	value  string
	typed  bool // on the command line, or as it were: it comes last
	isTrue bool // there is no value, which means yes
}

// parts cuts a key at its first and last dot.
func (s setting) parts() (section, sub, name string) {
	first, last := strings.Index(s.key, "."), strings.LastIndex(s.key, ".")
	if first < 0 {
		return s.key, "", ""
	}
	if first < last {
		sub = s.key[first+1 : last]
	}
	return s.key[:first], sub, s.key[last+1:]
}

// pattern gives the key as [allowed] has it.
func (s setting) pattern() string {
	section, sub, name := s.parts()
	if sub != "" {
		return section + ".*." + name
	}
	return section + "." + name
}

// configure writes the config that git will read, in a folder that stands for the
// one that work trees share, and checks whose repository it is.
func (r *Repo) configure(ctx context.Context) error {
	if err := r.folder(); err != nil {
		return fmt.Errorf("making a folder for git's settings: %w", err)
	}
	var user, repository []setting
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		user, err = r.list(gctx)
		return err
	})
	g.Go(func() (err error) {
		repository, err = r.stored(gctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.trusted(user); err != nil {
		return err
	}
	if !r.pointsBack(repository) && !r.safe(user) {
		return diag.Hint(fmt.Errorf("reading the git repository at %q: %q is elsewhere and does not say that it belongs here", r.root, r.gitDir),
			"if it does: git config --global --add safe.directory %s", r.root)
	}
	// A repository without a work tree (core.bare) has no files that belong to it.
	// Where others are linked to it, they are where the files are.
	if r.gitDir == r.common {
		for _, s := range repository {
			if s.key == "core.bare" && (s.isTrue || truth(s.value)) {
				return diag.Hint(fmt.Errorf("reading the git repository at %q: core.bare says that it has no files", r.root),
					"git -C %s config core.bare false, if they belong to it", r.root)
			}
		}
	}
	var lower, upper []setting
	for _, s := range user {
		if s.typed {
			upper = append(upper, s)
		} else {
			lower = append(lower, s)
		}
	}
	text := encode(slices.Concat(r.attributes(lower), lower, repository, upper)) + own
	if err := os.WriteFile(filepath.Join(r.config, "config"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing git's settings: %w", err)
	}
	return nil
}

// folder makes the folder, with all in it that git looks for there but the config.
func (r *Repo) folder() error {
	var err error
	sweep(os.TempDir(), time.Now().Add(-staleAfter))
	if r.config, err = os.MkdirTemp("", folderName); err != nil {
		return err
	}
	for _, name := range []string{"refs", "packed-refs", "reftable", "info", "shallow"} {
		if err := os.Symlink(filepath.Join(r.common, name), filepath.Join(r.config, name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(r.config, "config"), nil, 0o600)
}

const (
	folderName = "strata-git-"
	// staleAfter is far longer than a repository is open.
	staleAfter = 24 * time.Hour
)

// sweep removes folders that processes have left which were killed.
func sweep(dir string, before time.Time) {
	old, err := filepath.Glob(filepath.Join(dir, folderName+"*"))
	if err != nil {
		return
	}
	for _, name := range old {
		if info, err := os.Lstat(name); err == nil && info.IsDir() && info.ModTime().Before(before) {
			_ = os.RemoveAll(name) // another user's stays
		}
	}
}

// list gives the settings of user and machine, or of one file. Git reads them for
// this repository, as they may be for some alone, but without those in it.
func (r *Repo) list(ctx context.Context, args ...string) ([]setting, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"config", "--list", "-z", "--show-origin"}, args...)...)
	cmd.Dir, cmd.WaitDelay = r.config, waitDelay
	cmd.Env = append(r.machine.base(), "GIT_DIR="+r.gitDir, "GIT_COMMON_DIR="+r.config, "GIT_OBJECT_DIRECTORY="+r.objects())
	for _, kv := range r.machine.environ() {
		if slices.ContainsFunc(userSettings, func(name string) bool { return strings.HasPrefix(kv, name) }) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, r.failure(ctx, "config", stderr.String(), err)
	}
	return parse(stdout.String()), nil
}

// parse reads what git config --list -z --show-origin writes: "ORIGIN", then
// "KEY\nVALUE" or "KEY", each ended by NUL.
func parse(out string) []setting {
	var all []setting
	texts := strings.Split(out, "\x00")
	for i := 0; i+1 < len(texts); i += 2 {
		key, value, has := strings.Cut(texts[i+1], "\n")
		all = append(all, setting{key: key, value: value, isTrue: !has, typed: strings.HasPrefix(texts[i], "command line")})
	}
	return all
}

// maxConfig bounds a repository's config. Those that people have are some
// kilobytes; a submodule or branch takes 100 bytes.
const maxConfig = 4 << 20

// stored gives the repository's own settings, without the files that they name:
// that could be any file of this machine, or a pipe that never ends.
func (r *Repo) stored(ctx context.Context) ([]setting, error) {
	shared, err := r.storedIn(ctx, filepath.Join(r.common, "config"))
	if err != nil || !slices.ContainsFunc(shared, func(s setting) bool {
		return s.key == "extensions.worktreeconfig" && (s.isTrue || truth(s.value))
	}) {
		return shared, err
	}
	tree, err := r.storedIn(ctx, filepath.Join(r.gitDir, "config.worktree"))
	return append(shared, tree...), err
}

func (r *Repo) storedIn(ctx context.Context, file string) ([]setting, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxConfig) {
		err = fmt.Errorf("%q is no file of at most %d MiB", file, maxConfig>>20)
	}
	if err != nil {
		return nil, broken(r.root, err)
	}
	all, err := r.list(ctx, "--no-includes", "--file", file)
	return slices.DeleteFunc(all, func(s setting) bool { return s.key == "core.attributesfile" }), err
}

// attributes names the user's file of attributes, which git looks for in the
// user's folders, unless a setting says otherwise.
func (r *Repo) attributes(user []setting) []setting {
	home, config := r.machine.getenv("HOME"), r.machine.getenv("XDG_CONFIG_HOME")
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	for i, s := range user {
		if rest, ok := strings.CutPrefix(s.value, "~/"); ok && s.key == "core.attributesfile" {
			user[i].value = filepath.Join(home, rest)
		}
	}
	if config == "" {
		return nil
	}
	return []setting{{key: "core.attributesfile", value: filepath.Join(config, "git", "attributes")}}
}

// encode writes those of the settings that are allowed as a config.
func encode(settings []setting) string {
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	var b strings.Builder
	for _, s := range settings {
		if !allowed[s.pattern()] || strings.ContainsAny(s.key, "\n\r") || strings.ContainsRune(s.value, '\r') {
			continue
		}
		section, sub, name := s.parts()
		b.WriteString("[" + section)
		if sub != "" {
			b.WriteString(` "` + quote.Replace(sub) + `"`)
		}
		b.WriteString("]\n\t" + name)
		if !s.isTrue {
			b.WriteString(` = "` + quote.Replace(s.value) + `"`)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
