package prune

import (
	"path"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The tags that Strata keeps for itself (docs/format.md).
const (
	own         = "strata-"
	lastOf      = "strata-last-"
	cacheOf     = "strata-cache-"
	artifactOf  = "strata-a-"
	inventoryOf = "strata-i-"
	recordOf    = "strata-r-"
	journalOf   = "strata-j-"
	order       = "strata-order"
)

var (
	keyForm     = regexp.MustCompile(`^strata-[0-9a-f]{64}$`)
	pointerForm = regexp.MustCompile(`^strata-[ct]-[0-9a-f]{64}$`) // content key, test
	// What is attached to an image in registries that have no better way: the
	// distribution specification's list, and cosign's signatures and the like.
	attachedForm = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64,128})(\.[a-z0-9]+)?$`)
)

// User says whether a tag is a user's: neither Strata's nor a list of what is
// attached to an image.
func User(tag string) bool {
	return !strings.HasPrefix(tag, own) && !attachedForm.MatchString(tag)
}

// Pointer says whether a tag points to an image that most likely has another tag
// as well, so that asking for its digest is enough.
func Pointer(tag string) bool {
	return User(tag) || pointerForm.MatchString(tag) || strings.HasPrefix(tag, lastOf)
}

// Subject gives the image that a tag lists attachments of.
func Subject(tag string) (digest.Digest, bool) {
	m := attachedForm.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	d := digest.Digest(m[1] + ":" + m[2])
	return d, d.Validate() == nil
}

func kindOfTag(tag string) Kind {
	switch {
	case attachedForm.MatchString(tag), strings.HasPrefix(tag, artifactOf):
		return Attachment
	case strings.HasPrefix(tag, inventoryOf):
		return Inventory
	case strings.HasPrefix(tag, recordOf):
		return Record
	case strings.HasPrefix(tag, journalOf):
		return Promotion
	case strings.HasPrefix(tag, cacheOf):
		return Cache
	}
	return Other
}

func matches(patterns []string, tag string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, tag); err == nil && ok {
			return true
		}
	}
	return false
}

// layerOf gives the layer in a unit's ID.
func layerOf(unit string) string {
	layer, _, _ := strings.Cut(unit, "/")
	return layer
}

// Moving says whether a tag may point elsewhere from one run to the next. Those of
// keys stay where they are.
func Moving(tag string) bool { return User(tag) || strings.HasPrefix(tag, lastOf) }

// CheckPattern says what is wrong with a pattern of tags.
func CheckPattern(pattern string) error {
	_, err := path.Match(pattern, "")
	return err
}
