package doctor

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// existing gives dir or the nearest folder above it that there is.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("looking for %q: %w", dir, err)
	}
	for {
		st, err := os.Stat(dir)
		if err == nil && st.IsDir() {
			return dir, nil
		}
		if err == nil {
			return "", fmt.Errorf("%q is no folder", dir)
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", fmt.Errorf("looking for %q: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// space is what a file system has left for a user without rights.
type space struct {
	bytes  uint64
	inodes uint64
	counts bool // the file system has a number of inodes at all
}

// The bounds of what is enough: a build of a layer with machine-learning
// packages takes 3 to 4 GB of disk and about 100,000 files.
const (
	fewBytes  = 10_000_000_000
	noBytes   = 1_000_000_000
	fewInodes = 200_000
	noInodes  = 20_000
)

func disk(_ context.Context, o Options) Check {
	dir, err := existing(o.StateDir)
	if err != nil {
		return fail("export STRATA_HOME=/path/on/a/disk", "%v", err)
	}
	s, err := freeSpace(dir)
	if err != nil {
		return warn("", "asking for the space of %q: %v", dir, err)
	}
	return s.judge(dir)
}

func (s space) judge(dir string) Check {
	const hint = "strata store prune, or export STRATA_HOME=/path/on/a/larger/disk"
	gb := fmt.Sprintf("%.1f GB free in %q", float64(s.bytes)/1e9, dir)
	switch {
	case s.bytes < noBytes:
		return fail(hint, "%s", gb)
	case s.counts && s.inodes < noInodes:
		return fail(hint, "%s, but room for %d files only", gb, s.inodes)
	case s.bytes < fewBytes:
		return warn(hint, "%s, less than 10 GB", gb)
	case s.counts && s.inodes < fewInodes:
		return warn(hint, "%s, but room for %d files only", gb, s.inodes)
	}
	return ok("%s", gb)
}

// maxSkew is how far a clock may be off: tokens of registries are valid for
// five minutes and carry the time of their issue.
const maxSkew = 2 * time.Minute

func reach(ctx context.Context, r Registry, now func() time.Time) Check {
	date, err := r.Probe(ctx)
	if err != nil {
		return fail("check the name, the network and $HTTPS_PROXY: curl -v https://"+r.Host+"/v2/", "%v", err)
	}
	if skew := now().Sub(date).Round(time.Second); !date.IsZero() && skew.Abs() > maxSkew {
		side := "ahead of"
		if skew < 0 {
			side = "behind"
		}
		return warn(clockHint, "answers, but this machine's clock is %v %s its own", skew.Abs(), side)
	}
	return ok("answers")
}

const clockHint = "sudo timedatectl set-ntp true"

// released is a time before this program was made: an earlier clock is wrong,
// and TLS would find every certificate not yet valid.
var released = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func clock(_ context.Context, o Options) Check {
	now := o.Now()
	if now.Before(released) {
		return fail(clockHint, "it is set to %s", now.UTC().Format(time.DateTime))
	}
	if st, err := os.Stat(o.StateDir); err == nil && st.ModTime().After(now.Add(time.Hour)) {
		return warn(clockHint, "it is set to %s, before the last change of %q", now.UTC().Format(time.DateTime), o.StateDir)
	}
	return ok("%s UTC", now.UTC().Format(time.DateTime))
}

func gitCommand(ctx context.Context, o Options) Check {
	if _, err := o.LookPath("git"); err != nil {
		return warn("sudo apt-get install git", "git is not on PATH: revision and version of images must be given")
	}
	text, err := git.Machine{}.Version(ctx)
	if err != nil {
		return warn("sudo apt-get install --reinstall git", "starting git: %v", err)
	}
	return ok("%s", text)
}

// repository tells whether the history can be read that versions and the order of
// tags come from.
func repository(ctx context.Context, o Options) Check {
	text, err := o.Repository(ctx)
	switch {
	case errors.Is(err, git.ErrMissing):
		return warn("sudo apt-get install git", "%v", err)
	case err != nil:
		return fail(cmp.Or(diag.HintOf(err), "git status says what git makes of it"), "%v", err)
	}
	return ok("%s", text)
}

// dockerConfig is what Strata uses of docker's config.json.
type dockerConfig struct {
	Auths map[string]struct {
		Auth string `json:"auth"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// credentials reads docker's configuration. It never tells a user's name or
// password.
func credentials(_ context.Context, o Options) Check {
	if o.DockerConfig == "" {
		return ok("none: registries are asked without credentials")
	}
	data, err := os.ReadFile(o.DockerConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return ok("no %q: registries are asked without credentials", o.DockerConfig)
	}
	if err != nil {
		return fail("make the file readable for you", "%v", err)
	}
	var c dockerConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return fail("repair the file, or move it away and log in again", "reading %q: %s", o.DockerConfig, jsonFault(err))
	}
	return c.check(o)
}

// jsonFault says what is wrong without quoting what stands there.
func jsonFault(err error) string {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("no valid JSON at byte %d", syntax.Offset)
	case errors.As(err, &typ):
		return fmt.Sprintf("member %q is of the wrong type", typ.Field)
	}
	return "no valid JSON"
}

func (c dockerConfig) check(o Options) Check {
	helpers := []string{}
	if c.CredsStore != "" {
		helpers = append(helpers, c.CredsStore)
	}
	for _, h := range c.CredHelpers {
		helpers = append(helpers, h)
	}
	slices.Sort(helpers)
	helpers = slices.Compact(helpers)
	for _, h := range helpers {
		if _, err := o.LookPath("docker-credential-" + h); err != nil {
			return fail(fmt.Sprintf("install docker-credential-%s, or take %q out of %s", h, h, o.DockerConfig), "docker-credential-%s is not on PATH", h)
		}
	}
	hosts := []string{}
	for host, a := range c.Auths {
		if a.Auth == "" {
			continue // the entry says that a helper has it
		}
		if !validAuth(a.Auth) {
			return fail("log in again: docker login "+host, "the entry of %q is damaged", host)
		}
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	if st, err := os.Stat(o.DockerConfig); err == nil && len(hosts) > 0 && st.Mode().Perm()&0o077 != 0 {
		return warn("chmod 600 "+o.DockerConfig, "others may read the passwords in %q", o.DockerConfig)
	}
	var parts []string
	if len(hosts) > 0 {
		parts = append(parts, "for "+strings.Join(hosts, ", "))
	}
	if len(helpers) > 0 {
		parts = append(parts, "from helpers "+strings.Join(helpers, ", "))
	}
	if parts == nil {
		return ok("none in %q", o.DockerConfig)
	}
	return ok("%s", strings.Join(parts, "; "))
}

// validAuth says whether s is the base64 of USER:PASSWORD.
func validAuth(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && strings.Contains(strings.TrimRight(string(b), "\x00"), ":")
}
