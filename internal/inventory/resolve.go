package inventory

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Errors of [Resolve].
var (
	ErrNotDir    = errors.New("not a directory")
	ErrLoop      = errors.New("too many links")
	ErrAmbiguous = errors.New("links lead through other links and upwards again")
)

// maxLinks is how many links BuildKit follows (continuity's fs.RootPath).
const maxLinks = 255

// Resolve follows every link in path inside of the root, the last element's
// too, as BuildKit does before it writes: absolute links start at the root and
// ".." ends there. What does not exist is kept as it is. The look-up gives what
// stands at a path itself. The result is clean, without a leading slash; "" is
// the root.
//
// Errors wrap [ErrNotDir], [ErrLoop] or the look-up's own.
// BuildKit follows only one link of a directory on the way before it joins the
// rest; where the rest leads upwards again, that could give another path than
// the kernel's, and the error is [ErrAmbiguous].
func Resolve(p string, lookup func(path string) (Kind, string, error)) (string, error) {
	rest := strings.TrimPrefix(path.Join("/", p), "/")
	cur, links, nested, fromLink := "", 0, false, 0
	for rest != "" {
		elem, tail, _ := strings.Cut(rest, "/")
		at := join(cur, elem)
		kind, link, err := lookup(at)
		if err != nil {
			return "", fmt.Errorf("looking up %q: %w", "/"+at, err)
		}
		switch {
		case kind == Symlink:
			if links++; links > maxLinks {
				return "", fmt.Errorf("resolving %q: %w", p, ErrLoop)
			}
			if nested && !strings.HasPrefix(link, "/") && strings.Contains("/"+link+"/", "/../") {
				return "", fmt.Errorf("resolving %q: %w", p, ErrAmbiguous)
			}
			if !strings.HasPrefix(link, "/") {
				link = "/" + join(cur, link)
			}
			link = strings.TrimPrefix(path.Clean(link), "/")
			nested = nested || (fromLink > 0 && tail != "")
			fromLink = elements(link) + max(0, fromLink-1)
			cur, rest = "", strings.TrimPrefix(path.Join("/", link, tail), "/")
			continue
		case kind == None:
			return join(at, tail), nil
		case kind != Dir && tail != "":
			return "", fmt.Errorf("looking up %q: %w", "/"+at, ErrNotDir)
		}
		cur, rest = at, tail
		if fromLink > 0 {
			fromLink--
		}
	}
	return cur, nil
}

// ResolveInRoot is [Resolve] over the inventory itself.
func (v *Inventory) ResolveInRoot(p string) (string, error) {
	return Resolve(p, func(at string) (Kind, string, error) {
		e := v.Lookup(at)
		return e.Kind, e.Link, nil
	})
}

func join(dir, elem string) string {
	switch {
	case dir == "":
		return elem
	case elem == "":
		return dir
	}
	return dir + "/" + elem
}

func elements(p string) int {
	if p == "" {
		return 0
	}
	return strings.Count(p, "/") + 1
}
