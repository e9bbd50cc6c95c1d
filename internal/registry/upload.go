package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/wire"
)

// smallUpload is the size up to which a stream is held in memory, so that it
// can be sent whole, in one request less, and again after a failure.
const smallUpload = 4 << 20

const opPush = "pushing a blob to"

// PushBlob uploads a blob whose digest and size are known, by a POST and a
// PUT. After a failure that passes it opens the content again and starts anew.
// It does not ask whether the blob is there already: see [Client.HasBlob].
func (c *Client) PushBlob(ctx context.Context, ref Ref, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	return c.MountOrPush(ctx, Ref{}, ref, d, open)
}

// MountOrPush mounts a blob of from's repository, and uploads it where that
// cannot be done; the upload goes on where the mount left off, so that a mount
// that fails costs no round trip. A zero from only uploads.
func (c *Client) MountOrPush(ctx context.Context, from, to Ref, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	mount := ""
	if from.Host == to.Host {
		mount = from.Repo
	}
	start := func() (*upload, error) { return c.startUpload(ctx, to, mount, d.Digest) }
	source := &noting{open: open}
	return c.again(ctx, start, func(u *upload) error {
		content, err := source.Open()
		if err != nil {
			u.cancel(ctx)
			return fmt.Errorf("opening %s for %q: %w", d.Digest, to.Repository(), err)
		}
		defer content.Close()
		return source.cause(u.finish(ctx, d.Digest, content, d.Size, source.Open))
	})
}

// again runs an upload, and repeats it from its start as long as its failure
// may pass. A start that gives no upload means that none is needed.
func (c *Client) again(ctx context.Context, start func() (*upload, error), send func(*upload) error) error {
	silent := false
	for attempt := 0; ; attempt++ {
		u, err := start()
		if err != nil || u == nil {
			return err // the transport has repeated the request already
		}
		err = send(u)
		var e *Error
		if !errors.As(err, &e) || attempt >= c.options.Retries || e.Host == EmbeddedHost ||
			e.Kind != Unavailable && e.Kind != RateLimited && e.Kind != Silent {
			return err
		}
		if s := (*wire.Silence)(nil); errors.As(err, &s) {
			if !s.Repeat || silent {
				return err
			}
			silent = true // one other try, as each takes its time
		}
		wait := max(backoff(c.options.RetryWait, attempt), e.RetryAfter)
		if wait > c.options.MaxWait || sleep(ctx, wait) != nil {
			return err
		}
	}
}

// PushStream uploads all of r, hashing it on the way, and gives its
// descriptor. Up to 4 MiB take a POST and a PUT and are repeated after a
// failure that passes; more is streamed in one PATCH, in constant memory, and
// cannot be repeated, since r is used up.
func (c *Client) PushStream(ctx context.Context, ref Ref, mediaType string, r io.Reader) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType}
	// The POST travels while the first bytes are made.
	type started struct {
		u   *upload
		err error
	}
	start := make(chan started, 1)
	go func() {
		u, err := c.startUpload(ctx, ref, "", "")
		start <- started{u, err}
	}()
	var head bytes.Buffer
	_, readErr := io.CopyN(&head, r, smallUpload+1)
	s := <-start
	switch {
	case s.err != nil:
		return d, s.err
	case readErr != nil && readErr != io.EOF:
		s.u.cancel(ctx)
		return d, fmt.Errorf("%s %q: reading the content: %w", opPush, ref.Repository(), readErr)
	case readErr == nil:
		return c.pushLarge(ctx, s.u, d, io.MultiReader(&head, r))
	}
	d.Digest, d.Size = digest.FromBytes(head.Bytes()), int64(head.Len())
	first := s.u
	restart := func() (*upload, error) {
		if u := first; u != nil {
			first = nil
			return u, nil
		}
		return c.startUpload(ctx, ref, "", "")
	}
	return d, c.again(ctx, restart, func(u *upload) error {
		return u.finish(ctx, d.Digest, bytes.NewReader(head.Bytes()), d.Size, nil)
	})
}

func (c *Client) pushLarge(ctx context.Context, u *upload, d ocispec.Descriptor, r io.Reader) (ocispec.Descriptor, error) {
	source := &hashingReader{r: r, digester: digest.SHA256.Digester()}
	if err := u.patch(ctx, source); err != nil {
		if source.err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%s %q: reading the content: %w", opPush, u.ref.Repository(), source.err)
		}
		u.cancel(ctx)
		return d, err
	}
	d.Digest, d.Size = source.digester.Digest(), source.n
	return d, u.finish(ctx, d.Digest, nil, 0, nil)
}

// hashingReader hashes and counts what is read through it, and remembers an
// error of its source, which a transport would wrap beyond recognition.
type hashingReader struct {
	r        io.Reader
	digester digest.Digester
	n        int64
	err      error
}

func (h *hashingReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.digester.Hash().Write(p[:n])
	h.n += int64(n)
	if err != nil && err != io.EOF {
		h.err = err
	}
	return n, err
}

// upload is one upload under way.
type upload struct {
	client   *Client
	ref      Ref
	location string // where the next part goes; the registry moves it
}

// startUpload begins an upload. With a repository to mount from and a digest,
// it is nil when the blob was mounted.
func (c *Client) startUpload(ctx context.Context, ref Ref, mount string, d digest.Digest) (*upload, error) {
	r := call{op: opPush, ref: ref.Repository(), method: http.MethodPost, path: "blobs/uploads/"}
	if mount != "" && mount != ref.Repo {
		r.op, r.mount = "mounting a blob into", mount
		r.query = url.Values{"mount": {d.String()}, "from": {mount}}
	}
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated && r.mount != "" {
		return nil, nil
	}
	u := &upload{client: c, ref: ref.Repository()}
	return u, u.moved(r.op, resp)
}

// moved notes where the upload goes on.
func (u *upload) moved(op string, resp *http.Response) error {
	l, err := resp.Location()
	if err != nil {
		return invalid(op, u.ref, "the registry did not say where to upload to")
	}
	u.location = secureLocation(resp.Request.URL.String(), l.String())
	return nil
}

// patch sends all of r as one part of unknown length.
func (u *upload) patch(ctx context.Context, r io.Reader) error {
	resp, err := u.client.do(ctx, call{
		op: opPush, ref: u.ref, method: http.MethodPatch, url: u.location, once: true,
		header: http.Header{"Content-Type": {"application/octet-stream"}}, body: io.NopCloser(r), size: -1,
	})
	if err != nil {
		return err
	}
	resp.Body.Close()
	return u.moved(opPush, resp)
}

// finish sends the rest, or nothing where body is nil, and names the digest.
// With reopen, the rest can be sent again when a token turns out to be too old.
func (u *upload) finish(ctx context.Context, d digest.Digest, body io.Reader, size int64, reopen func() (io.ReadCloser, error)) error {
	sep := "?"
	if strings.Contains(u.location, "?") {
		sep = "&"
	}
	r := call{
		op: opPush, ref: u.ref, method: http.MethodPut, once: true,
		url: u.location + sep + "digest=" + url.QueryEscape(d.String()),
	}
	if body != nil && size > 0 {
		r.body, r.size, r.reopen = body, size, reopen
		r.header = http.Header{"Content-Type": {"application/octet-stream"}}
	}
	resp, err := u.client.do(ctx, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// cancel tells the registry, as far as it can be told, that no more will come.
func (u *upload) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	resp, err := u.client.do(ctx, call{op: "cancelling an upload to", ref: u.ref, method: http.MethodDelete, url: u.location, once: true})
	if err == nil {
		resp.Body.Close()
	}
}

// PushBytes uploads content that is in memory and gives its descriptor.
func (c *Client) PushBytes(ctx context.Context, ref Ref, mediaType string, content []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return d, c.PushBlob(ctx, ref, d, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
}
