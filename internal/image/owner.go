package image

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moby/sys/user"

	"github.com/strata-build/strata/internal/inventory"
)

// owner is who a new file belongs to.
type owner struct{ uid, gid int }

// ownerOf reads "user[:group]" as --chown and WORKDIR's user mean it: a name is
// looked up in the image's passwd and group; a user that is not there is root,
// a group that is not there is the user's. A number alone is the group as well.
func (a *appender) ownerOf(spec string) (*owner, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	uid, gid, _, err := a.userOf(name)
	if err != nil {
		return nil, err
	}
	if hasGroup {
		id, found, err := a.groupOf(group)
		if err != nil {
			return nil, err
		}
		if found {
			gid = id
		}
	}
	return &owner{uid, gid}, nil
}

func (a *appender) userOf(name string) (uid, gid int, found bool, err error) {
	if id, ok, err := number(name); ok || err != nil {
		return id, id, true, err
	}
	data, err := a.account("etc/passwd", a.inventory.Passwd())
	if err != nil {
		return 0, 0, false, err
	}
	users, err := user.ParsePasswdFilter(strings.NewReader(data), func(u user.User) bool { return u.Name == name })
	if err != nil {
		return 0, 0, false, inexact("reading /etc/passwd: %s", err)
	}
	if len(users) == 0 {
		return 0, 0, false, nil
	}
	return users[0].Uid, users[0].Gid, true, nil
}

func (a *appender) groupOf(name string) (gid int, found bool, err error) {
	if id, ok, err := number(name); ok || err != nil {
		return id, true, err
	}
	data, err := a.account("etc/group", a.inventory.Group())
	if err != nil {
		return 0, false, err
	}
	groups, err := user.ParseGroupFilter(strings.NewReader(data), func(g user.Group) bool { return g.Name == name })
	if err != nil {
		return 0, false, inexact("reading /etc/group: %s", err)
	}
	if len(groups) == 0 {
		return 0, false, nil
	}
	return groups[0].Gid, true, nil
}

// number reads what needs no look-up: a number, "root", or nothing.
func number(s string) (int, bool, error) {
	if s == "root" || s == "" {
		return 0, true, nil
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, false, nil
	}
	if n < 0 {
		return 0, false, inexact("the owner %q is negative", s)
	}
	return int(n), true, nil
}

// account gives the content of an account file as the tail sees it; "" when
// there is none.
func (a *appender) account(p string, known inventory.Account) (string, error) {
	if a.linking {
		return "", inexact("--link can't look up a name in the image")
	}
	if len(a.parent.Manifest.Layers) == 0 && !a.tree.touched {
		return "", inexact("there is no image yet to look up a name in")
	}
	acc, err := a.accountAfter(p, known)
	switch {
	case err != nil:
		return "", err
	case acc.State == inventory.AccountUnknown:
		return "", inexact("what /%s of the image holds is not known", p)
	}
	return string(acc.Data), nil
}

// maxAccount is how much of an account file BuildKit reads.
const maxAccount = 10 << 20

// accountAfter gives an account file of the image with what the tail has done
// so far.
func (a *appender) accountAfter(p string, known inventory.Account) (inventory.Account, error) {
	unknown := inventory.Account{State: inventory.AccountUnknown}
	at, err := a.tree.resolve(p)
	if inexact := (*NotExact)(nil); errors.As(err, &inexact) {
		return unknown, nil
	}
	n := a.tree.at(at)
	switch {
	case n == nil:
		return inventory.Account{State: inventory.AccountAbsent}, nil
	case n.kind != inventory.File:
		return unknown, nil
	case n.content == nil: // the parent's
		if known.State == inventory.AccountPresent && known.Path == at {
			return known, nil
		}
		return unknown, nil
	case n.size > maxAccount:
		return unknown, nil
	}
	r, err := n.content.open()
	if err != nil {
		return unknown, fmt.Errorf("reading the new /%s: %w", p, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxAccount))
	if err != nil {
		return unknown, fmt.Errorf("reading the new /%s: %w", p, err)
	}
	return inventory.Account{State: inventory.AccountPresent, Path: at, Data: data}, nil
}
