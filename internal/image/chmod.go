package image

import (
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	mode "github.com/tonistiigi/dchapes-mode"

	"github.com/strata-build/strata/internal/inventory"
)

// chmods carries out a RUN that only changes modes and owners of files that
// this tail brought. It is exact for what GNU's and busybox's tools agree on.
func (a *appender) chmods(calls []Chmod, run *instructions.RunCommand) error {
	if len(calls) == 0 {
		return inexact("RUN needs the engine")
	}
	switch a.config.text("User") {
	case "", "root", "0", "root:root", "0:0":
	default:
		return inexact("RUN does not run as root")
	}
	if run.PrependShell {
		if err := a.program(a.shell()[0]); err != nil {
			return err
		}
	}
	if wd, err := a.tree.resolve(a.config.text("WorkingDir")); err != nil {
		return err
	} else if n := a.tree.at(wd); n == nil || n.kind != inventory.Dir {
		return inexact("RUN would make its working directory")
	}
	for _, c := range calls {
		name := "chmod"
		if c.Owner != "" {
			name = "chown"
		}
		if err := a.program(name); err != nil {
			return err
		}
		for _, p := range c.Paths {
			if err := a.chmod(c, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// program checks that the image can run a program: it is found where PATH says.
func (a *appender) program(name string) error {
	dirs := []string{""}
	if !strings.Contains(name, "/") {
		for _, kv := range a.config.env() {
			if p, ok := strings.CutPrefix(kv, "PATH="); ok {
				dirs = strings.Split(p, ":")
			}
		}
	}
	for _, dir := range dirs {
		at, err := a.tree.resolve(path.Join("/", dir, name))
		if err != nil {
			continue
		}
		if n := a.tree.at(at); n != nil && n.kind == inventory.File && n.mode&0o111 != 0 {
			if n.fresh {
				return inexact("RUN uses %q, which the tail brings", "/"+at)
			}
			return nil
		}
	}
	return inexact("RUN uses %q, which the image does not have", name)
}

// chmod changes one path and, when recursive, what is below it.
func (a *appender) chmod(c Chmod, p string) error {
	at, err := a.tree.resolve(p)
	if err != nil {
		return err
	}
	if c.Recursive && at != strings.TrimPrefix(path.Clean(p), "/") {
		return inexact("RUN goes into %q through a link", p)
	}
	n := a.tree.at(at)
	if n == nil || !n.fresh {
		return inexact("RUN changes %q, which the tail did not bring", p)
	}
	if err := a.change(c, at, n); err != nil || !c.Recursive || n.kind != inventory.Dir {
		return err
	}
	for q, below := range a.tree.nodes {
		if below == nil || !strings.HasPrefix(q, at+"/") {
			continue
		}
		if below.kind == inventory.Symlink {
			if c.Owner != "" {
				return inexact("RUN changes the owner of the link %q", "/"+q)
			}
			continue
		}
		if err := a.change(c, q, below); err != nil {
			return err
		}
	}
	return nil
}

// change sets the mode or the owner of one file. Names that share an inode
// change together; a second change of the same inode makes no difference.
func (a *appender) change(c Chmod, p string, n *node) error {
	if n.mode&0o6000 != 0 {
		return inexact("RUN changes %q, which has the setuid or setgid bit", "/"+p)
	}
	if c.Owner != "" && n.capability != "" {
		return inexact("RUN changes the owner of %q, which has capabilities", "/"+p)
	}
	a.tree.remember(p)
	if c.Owner != "" {
		return a.chown(c.Owner, n)
	}
	bits, err := newMode(c.Mode, n)
	if err != nil {
		return err
	}
	n.mode = bits
	return nil
}

// newMode gives a mode after chmod. Letters for which the tools or the umask
// matter are left to the engine, but for +x, +r and +X: with RUN's umask of 022
// they are a+x, a+r and a+X.
func newMode(spec string, n *node) (uint32, error) {
	if bits, err := strconv.ParseUint(spec, 8, 32); err == nil {
		return uint32(bits) & 0o7777, nil
	}
	var words []string
	for word := range strings.SplitSeq(spec, ",") {
		if strings.IndexAny(word, "ugoa") != 0 {
			if strings.Trim(word, "+rxX") != "" {
				return 0, inexact("what RUN chmod %s gives depends on more than the file", spec)
			}
			word = "a" + word
		}
		words = append(words, word)
	}
	if strings.ContainsAny(spec, "st") || strings.Count(spec, "+")+strings.Count(spec, "-")+strings.Count(spec, "=") != len(words) {
		return 0, inexact("RUN chmod %s is left to the image's own chmod", spec)
	}
	set, err := mode.ParseWithUmask(strings.Join(words, ","), 0)
	if err != nil {
		return 0, inexact("RUN chmod %s: %s", spec, err)
	}
	return bitsOf(set.Apply(fileMode(n.mode, n.kind))), nil
}

// chown changes the owner of a file; without a group the group stays. A name
// that is not in the image's files makes the tool fail.
func (a *appender) chown(spec string, n *node) error {
	name, group, hasGroup := strings.Cut(spec, ":")
	uid, _, known, err := a.userOf(name)
	if err != nil {
		return err
	}
	gid := n.gid
	if hasGroup && known {
		if gid, known, err = a.groupOf(group); err != nil {
			return err
		}
	}
	if !known {
		return inexact("RUN chown names %q, which is not in the image", spec)
	}
	n.uid, n.gid = uid, gid
	return nil
}
