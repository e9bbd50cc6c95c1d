//go:build linux

package times

import "maps"

// normalised gives the reference's image with times as docs/architecture.md
// wants them published: what an instruction made has one time, after all that is
// below it and in it; packages have a constant one; Python's records follow. That
// it has no difference but the wanted ones shows that what is compared here can
// be met.
func normalised(p *picture, f facts) *picture {
	c := &comparison{want: p, facts: f}
	c.origins()
	newest, at := int64(0), map[int]int64{}
	for n, l := range p.layers {
		inside, makes := newest, false
		for _, e := range l.entries {
			o := c.origin[e.path]
			switch {
			case o.instruction == n && (o.class == made || o.class == carried):
				makes = true
			case o.class != made && o.class != carried && o.class != installed:
				inside = max(inside, e.sec)
			}
		}
		newest = inside
		if makes {
			newest++
			at[n] = newest
		}
	}
	out := *p
	out.files = maps.Clone(p.files)
	for path, e := range p.files {
		moved := *e
		switch o := c.origin[path]; o.class {
		case made, carried:
			moved.sec = at[o.instruction]
		case installed:
			moved.sec = oldest
		}
		out.files[path] = &moved
	}
	for path, e := range out.files {
		if e.pyc != nil && fresh(p, path) {
			record := *e.pyc
			record.sec = uint32(out.files[source(path)].sec)
			e.pyc = &record
		}
	}
	return &out
}
