package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/inventory"
	"github.com/strata-build/strata/internal/view"
)

// inventoryOf gives the full file list of a unit's image or of any image.
func (a *app) inventoryOf(ctx context.Context, word, platform string) (*inventory.Inventory, error) {
	ref, err := a.imageRef(ctx, word)
	if err != nil {
		return nil, err
	}
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	if platform == "" {
		platform = a.platforms()[0]
	}
	return strata.Inventory(ctx, c, ref, platform)
}

type fileJSON struct {
	Path   string        `json:"path"`
	Kind   string        `json:"kind"`
	Mode   string        `json:"mode"`
	UID    int           `json:"uid"`
	GID    int           `json:"gid"`
	Size   int64         `json:"size"`
	Link   string        `json:"link,omitempty"`
	Digest digest.Digest `json:"digest,omitempty"`
	Blob   digest.Digest `json:"blob,omitempty"`
}

func toJSON(inv *inventory.Inventory, e *inventory.Entry) fileJSON {
	f := fileJSON{
		Path: "/" + e.Path, Kind: e.Kind.String(), Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID,
		Size: e.Size, Link: e.Link, Digest: e.Digest(),
	}
	if blobs := inv.Blobs(); e.Blob >= 0 && e.Blob < len(blobs) {
		f.Blob = blobs[e.Blob]
	}
	return f
}

func inventoryJSON(inv *inventory.Inventory) []fileJSON {
	var out []fileJSON
	for e := range inv.All() {
		out = append(out, toJSON(inv, e))
	}
	return out
}

func writeInventory(w io.Writer, inv *inventory.Inventory) error {
	b := bufio.NewWriter(w)
	for e := range inv.All() {
		view.Fprintln(b, fileLine(e))
	}
	return b.Flush()
}

// fileLine is a line as `ls -l` has it, with the digest of the content in place
// of the time.
func fileLine(e *inventory.Entry) string {
	short := ""
	if d := e.Digest(); d != "" {
		short = d.Encoded()[:12]
	}
	line := fmt.Sprintf("%s %5d:%-5d %12d  %-12s  /%s", modeString(e), e.UID, e.GID, e.Size, short, e.Path)
	if e.Link != "" {
		line += " -> " + e.Link
	}
	return line
}

func modeString(e *inventory.Entry) string {
	m := fs.FileMode(e.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&bit != 0 {
			m |= flag
		}
	}
	letter := map[inventory.Kind]string{inventory.Dir: "d", inventory.Symlink: "l", inventory.Char: "c", inventory.Block: "b", inventory.Fifo: "p"}[e.Kind]
	if letter == "" {
		letter = "-"
	}
	perm := []byte(m.Perm().String()[1:])
	for i, s := range []struct {
		flag    fs.FileMode
		x, none byte
	}{{fs.ModeSetuid, 's', 'S'}, {fs.ModeSetgid, 's', 'S'}, {fs.ModeSticky, 't', 'T'}} {
		if m&s.flag == 0 {
			continue
		}
		at := 3*i + 2
		if perm[at] == 'x' {
			perm[at] = s.x
		} else {
			perm[at] = s.none
		}
	}
	return letter + string(perm)
}

func (a *app) diff(ctx context.Context, words []string, platform string, asJSON bool) error {
	var invs [2]*inventory.Inventory
	for i, w := range words {
		var err error
		if invs[i], err = a.inventoryOf(ctx, w, platform); err != nil {
			return err
		}
	}
	diffs, err := inventory.Diff(invs[0], invs[1])
	if err != nil {
		return err
	}
	if asJSON {
		type pair struct {
			Path   string    `json:"path"`
			Before *fileJSON `json:"before,omitempty"`
			After  *fileJSON `json:"after,omitempty"`
		}
		out := []pair{}
		for _, d := range diffs {
			p := pair{Path: "/" + d.Path}
			if d.Before.Kind != inventory.None {
				f := toJSON(invs[0], &d.Before)
				p.Before = &f
			}
			if d.After.Kind != inventory.None {
				f := toJSON(invs[1], &d.After)
				p.After = &f
			}
			out = append(out, p)
		}
		return writeJSON(a.machine.Stdout, out)
	}
	return a.writeDiff(diffs)
}

func (a *app) writeDiff(diffs []inventory.Difference) error {
	w := bufio.NewWriter(a.machine.Stdout)
	pal := a.palette(a.machine.Stdout)
	var added, removed, changed int
	var grown int64
	for _, d := range diffs {
		grown += d.After.Size - d.Before.Size
		switch {
		case d.Before.Kind == inventory.None:
			added++
			view.Fprintln(w, pal.Paint(view.Green, "+ "+fileLine(&d.After)))
		case d.After.Kind == inventory.None:
			removed++
			view.Fprintln(w, pal.Paint(view.Red, "- "+fileLine(&d.Before)))
		default:
			changed++
			view.Fprintln(w, pal.Paint(view.Red, "- "+fileLine(&d.Before)))
			view.Fprintln(w, pal.Paint(view.Green, "+ "+fileLine(&d.After)))
		}
	}
	sign := "+"
	if grown < 0 {
		sign, grown = "-", -grown
	}
	view.Fprintf(w, "%d added, %d removed, %d changed; %s%s\n", added, removed, changed, sign, view.Bytes(grown))
	return w.Flush()
}
