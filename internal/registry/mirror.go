package registry

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// Which requests may reach the embedded registry, and which of them may write
// to its mirrors, stands in their context: a URL can come from another registry,
// as a redirect.
type (
	inside  struct{} // the request is about the embedded registry
	filling struct{} // it is an import's
)

// marked gives the context of a request about ref.
func (c *Client) marked(ctx context.Context, ref Ref) context.Context {
	if ref.Host != EmbeddedHost {
		return ctx
	}
	ctx = context.WithValue(ctx, inside{}, true)
	if c.options.fillMirrors {
		ctx = context.WithValue(ctx, filling{}, true)
	}
	return ctx
}

func isMarked(ctx context.Context, mark any) bool { return ctx.Value(mark) != nil }

// keepsMirrors refuses requests that would change what a mirror holds, and says
// whether it has. Only an import writes there, and only this machine's own
// processes delete there.
func keepsMirrors(w http.ResponseWriter, r *http.Request) bool {
	repo, ok := strings.CutPrefix(path.Clean("/"+r.URL.Path), "/v2/")
	if !ok || !mirrorRepo(repo) || isRead(r.Method) || isMarked(r.Context(), filling{}) ||
		r.Method == http.MethodDelete && isMarked(r.Context(), inside{}) {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s/ holds what was imported: strata registry import"}]}`, MirrorFolder)
	return true
}

// CheckName refuses an image name below the embedded registry's mirrors.
func CheckName(image string, ref Ref) error {
	if !ref.IsMirror() {
		return nil
	}
	return diag.Hint(fmt.Errorf("the image %q has a name that is kept for mirrors of other registries", image),
		"give it another name than %s/...; `strata registry import ROOTFS.tar --as NAME` keeps a base image on this machine", MirrorFolder)
}
