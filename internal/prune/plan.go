package prune

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"
)

// plan writes the decision down.
func (d *decision) plan() Plan {
	p := Plan{Expired: d.expired, foreign: map[ID]bool{}}
	slices.SortFunc(p.Expired, func(a, b Tag) int { return cmp.Or(cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Name, b.Name)) })
	for _, n := range d.order {
		i := Item{ID: n.ID, Kind: n.kind, Unit: n.Unit, Used: n.used, Goes: !n.live, Reason: n.reason, Detail: n.detail}
		if i.Goes {
			i.Reason = d.goes(n)
		}
		for _, t := range n.tags {
			i.Tags = append(i.Tags, t.Name)
		}
		slices.Sort(i.Tags)
		p.Items = append(p.Items, i)
		p.foreign[n.ID] = n.kind == Attachment && !slices.ContainsFunc(n.tags, func(t Tag) bool {
			return kindOfTag(t.Name) == Attachment && !User(t.Name) && !attachedForm.MatchString(t.Name)
		})
	}
	slices.SortStableFunc(p.Items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(goingFirst(a), goingFirst(b)), cmp.Compare(a.Repo, b.Repo), cmp.Compare(rank(a.Kind), rank(b.Kind)),
			cmp.Compare(a.Unit, b.Unit), a.Used.Compare(b.Used), cmp.Compare(a.Digest, b.Digest))
	})
	d.weigh(&p)
	return p
}

func goingFirst(i Item) int {
	if i.Goes {
		return 0
	}
	return 1
}

func rank(k Kind) int {
	return slices.Index([]Kind{Image, Index, Cache, Attachment, Inventory, Promotion, Record, Other}, k)
}

// weigh counts bytes: of what goes, those that nothing which stays needs.
func (d *decision) weigh(p *Plan) {
	counted := map[ID]bool{}
	for _, goes := range []bool{false, true} {
		for at := range p.Items {
			i := &p.Items[at]
			if i.Goes != goes {
				continue
			}
			n := d.nodes[i.ID]
			sum := int64(0)
			for _, b := range append([]Blob{{n.Digest, n.Size}}, n.Blobs...) {
				if k := (ID{n.Repo, b.Digest}); !counted[k] {
					counted[k] = true
					sum += b.Size
				}
			}
			if goes {
				i.Frees = sum
				p.Freed += sum
			} else {
				p.Stays += sum
			}
		}
	}
}

// Deletion is one thing to delete: a tag that points to a digest, or, without a
// tag, the manifest.
type Deletion struct {
	ID
	Tag string
}

// Steps gives the deletions. Each step may begin when the one before has ended,
// and within a step the order does not matter. Whenever it is broken off, no tag
// of what was live points to something incomplete, and what is left is found
// again by the next plan: tags go before what they point to, indexes before
// their images, what others have attached before its image, since nobody could
// find it afterwards, and our own attachments behind it, since they are what an
// untagged image is found by; records last, as they know of the rest.
func (p Plan) Steps() [][]Deletion {
	var userTags, tags, attachments, indexes, images, own, rest, logs []Deletion
	for _, t := range p.Expired {
		userTags = append(userTags, Deletion{ID{t.Repo, t.Digest}, t.Name})
	}
	for _, i := range p.Items {
		if !i.Goes {
			continue
		}
		var to *[]Deletion
		switch {
		case i.Kind == Record || i.Kind == Promotion:
			to = &logs
		case i.Kind == Attachment && p.foreign[i.ID]:
			to = &attachments
		case i.Kind == Attachment:
			to = &own
		case i.Kind == Inventory:
			to = &rest
		case i.Kind == Index:
			to = &indexes
		default:
			to = &images
		}
		*to = append(*to, Deletion{ID: i.ID})
		for _, t := range i.Tags {
			if User(t) {
				continue // among the expired
			}
			switch i.Kind {
			case Attachment, Inventory, Record, Promotion:
				*to = append(*to, Deletion{i.ID, t})
			default:
				tags = append(tags, Deletion{i.ID, t})
			}
		}
	}
	steps := [][]Deletion{userTags, tags}
	for _, s := range [][]Deletion{attachments, indexes, images, own, rest, logs} {
		steps = append(steps, only(s, true), only(s, false))
	}
	return slices.DeleteFunc(steps, func(s []Deletion) bool { return len(s) == 0 })
}

// only gives the deletions of tags, or those of manifests.
func only(all []Deletion, tags bool) []Deletion {
	var out []Deletion
	for _, d := range all {
		if (d.Tag != "") == tags {
			out = append(out, d)
		}
	}
	return out
}

// Live says whether a plan keeps a manifest.
func (p Plan) Live(repo string, d digest.Digest) bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool { return i.ID == ID{repo, d} && !i.Goes })
}
