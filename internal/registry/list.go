package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
)

// IsManifest says whether a media type is one that manifests have: what an
// index names may be blobs as well, as in BuildKit's caches.
func IsManifest(mediaType string) bool { return isManifestType(mediaType) }

// ListTags lists the tags of a repository. The embedded registry knows to what
// they point and since when; of any other only the names come.
func (c *Client) ListTags(ctx context.Context, repo Ref) ([]TagInfo, error) {
	if repo.Host == EmbeddedHost && c.options.Embedded != nil {
		return c.options.Embedded.Tags(repo.Repo)
	}
	names, err := c.Tags(ctx, repo)
	out := make([]TagInfo, len(names))
	for i, name := range names {
		out[i].Ref = repo.WithTag(name)
	}
	return out, err
}

// Attached lists what is attached to a manifest according to the registry's
// referrers API. A registry without it lists nothing: what is attached there has
// a tag.
func (c *Client) Attached(ctx context.Context, ref Ref) ([]ocispec.Descriptor, error) {
	if !c.mayHaveReferrers(ref.Host) {
		return nil, nil
	}
	list, _, err := c.askReferrers(ctx, ref, "")
	return list, err
}

// ErrNoDelete is what errors.Is finds when a registry does not delete.
var ErrNoDelete = errors.New("it does not delete")

// nothing is the digest of a manifest that no registry holds.
var nothing = digest.FromString("strata asks whether manifests can be deleted")

// CanDelete asks whether the registry lets this user delete, by deleting a
// manifest that is not there. An error has a hint; it is ErrNoDelete where no
// user can.
func (c *Client) CanDelete(ctx context.Context, repo Ref) error {
	err := c.Delete(ctx, repo.WithDigest(nothing))
	var e *Error
	switch {
	case err == nil, errors.Is(err, ErrNotFound):
		return nil
	case !errors.As(err, &e):
		return err
	case noDelete(e):
		return diag.Hint(fmt.Errorf("deleting from %s: %w (%d: %s)", repo.FamiliarString(), ErrNoDelete, e.Status, e.Message), "%s", deleteHint(repo))
	case e.Kind == Unauthorized, e.Kind == Forbidden:
		return diag.Hint(fmt.Errorf("deleting from %s: %w", repo.FamiliarString(), e),
			"the account needs the right to delete, which is often a right of its own; to change the account: docker login %s", repo.Host)
	case e.Kind == Invalid: // it does not like the digest; what is there it may delete
		return nil
	}
	return err
}

// CannotDelete says whether err means that a registry does not delete what it
// was asked to in this way: many delete manifests and not tags.
func CannotDelete(err error) bool {
	var e *Error
	return errors.As(err, &e) && (noDelete(e) || e.Status == http.StatusBadRequest)
}

func noDelete(e *Error) bool {
	return e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented || e.Code == "UNSUPPORTED"
}

var ecrForm = regexp.MustCompile(`\.dkr\.ecr[.-].*amazonaws\.com(\.cn)?$`)

// deleteHint says how things are deleted in a registry that does not do it by
// the distribution specification.
func deleteHint(repo Ref) string {
	switch {
	case repo.Host == "ghcr.io":
		return "GitHub deletes through its packages API alone: the digests that `strata prune --push --json` gives are the names of the package's versions, " +
			"for `gh api -X DELETE /user/packages/container/NAME/versions/ID`"
	case repo.Host == dockerHub:
		return "Docker Hub deletes on its web page and through its own API; the digests are in `strata prune --push --json`"
	case ecrForm.MatchString(repo.Host):
		return "ECR deletes through its own API: `aws ecr batch-delete-image`, with the digests that `strata prune --push --json` gives"
	}
	return "whoever runs the registry has to allow it: `storage: {delete: {enabled: true}}` in the configuration of the CNCF distribution registry, " +
		"or REGISTRY_STORAGE_DELETE_ENABLED=true in its environment"
}
