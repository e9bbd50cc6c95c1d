package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/wire"
)

// maxResumes is how often a download that gets no further is taken up again.
const maxResumes = 5

// resumeProgress is what a resumed download must bring to count as getting
// further: a registry that cuts each answer after a byte would be asked forever.
const resumeProgress = 4 << 10

// maxReadBlob bounds [Client.ReadBlob]: what is kept in memory whole are
// configs, inventories and records.
const maxReadBlob = 256 << 20

// Blob opens a blob of ref's repository. The reader resumes where a connection
// is cut, and ends with an error instead of io.EOF when size or digest are not
// those of d. A size of 0 or less means: unknown.
func (c *Client) Blob(ctx context.Context, ref Ref, d ocispec.Descriptor) (io.ReadCloser, error) {
	if d.Digest.Validate() != nil {
		return nil, invalid("pulling a blob of", ref.Repository(), "%q is not a digest", d.Digest)
	}
	if d.Data != nil && digest.FromBytes(d.Data) == d.Digest {
		return io.NopCloser(bytes.NewReader(d.Data)), nil
	}
	r, _, err := fromFirst(c, ref.WithDigest(d.Digest), func(at Ref) (*blobReader, error) {
		r := &blobReader{ctx: ctx, client: c, ref: at, desc: d, hash: d.Digest.Algorithm().Hash()}
		return r, r.open()
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ReadBlob gives a whole blob, verified.
func (c *Client) ReadBlob(ctx context.Context, ref Ref, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxReadBlob {
		return nil, invalid("pulling", ref.WithDigest(d.Digest), "%d bytes are too many to hold in memory", d.Size)
	}
	r, err := c.Blob(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxReadBlob+1))
	if err == nil && len(b) > maxReadBlob {
		err = invalid("pulling", ref.WithDigest(d.Digest), "the blob is too large to hold in memory")
	}
	return b, err
}

// HasBlob says whether the repository of ref holds a blob, by a HEAD request. A
// blob of another size is an [ErrCorrupt].
func (c *Client) HasBlob(ctx context.Context, ref Ref, d ocispec.Descriptor) (bool, error) {
	at := ref.WithDigest(d.Digest)
	resp, err := c.do(ctx, call{op: "looking up", ref: at, method: http.MethodHead, path: "blobs/" + d.Digest.String()})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if resp.ContentLength >= 0 && d.Size > 0 && resp.ContentLength != d.Size {
		return false, corrupt("looking up", at, "the registry has %d bytes in place of %d", resp.ContentLength, d.Size)
	}
	return true, nil
}

// blobReader reads one blob over as many connections as it takes. It keeps the
// context of the call that made it, as a response body does.
type blobReader struct {
	ctx    context.Context
	client *Client
	ref    Ref
	desc   ocispec.Descriptor
	hash   hash.Hash
	body   io.ReadCloser
	off    int64 // bytes handed on so far
	from   int64 // off, when it was last resumed
	fails  int   // resumes since there was progress
	silent int   // those among them for which the registry was waited for
	err    error // what every further Read answers
}

const opPull = "pulling"

// open asks for the blob from r.off on.
func (r *blobReader) open() error {
	q := call{
		op: opPull, ref: r.ref, method: http.MethodGet, path: "blobs/" + r.desc.Digest.String(),
		once: r.silent > 0, // the user has waited for it already
	}
	r.from = r.off
	if r.off > 0 {
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", r.off)}}
	}
	resp, err := r.client.do(r.ctx, q)
	if err != nil {
		return err
	}
	r.body = resp.Body
	whole := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != r.off {
			resp.Body.Close()
			return invalid(opPull, r.ref, "the registry answered with another range: %q", resp.Header.Get("Content-Range"))
		}
		whole += r.off
	}
	if resp.ContentLength >= 0 && r.desc.Size > 0 && whole != r.desc.Size {
		resp.Body.Close()
		return corrupt(opPull, r.ref, "the blob has %d bytes in place of %d", whole, r.desc.Size)
	}
	if resp.StatusCode == http.StatusOK && r.off > 0 { // ranges are not supported
		if _, err := io.CopyN(io.Discard, resp.Body, r.off); err != nil {
			resp.Body.Close()
			return transportError(r.ctx, opPull, r.ref, io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	for r.err == nil {
		n, err := r.body.Read(p)
		if n > 0 {
			r.hash.Write(p[:n])
			r.off += int64(n)
			if r.off-r.from >= resumeProgress {
				r.fails, r.silent = 0, 0
			}
			if r.desc.Size > 0 && r.off > r.desc.Size {
				r.err = invalid(opPull, r.ref, "the blob is larger than its %d bytes", r.desc.Size)
				return 0, r.err
			}
			return n, nil // an error comes again with the next Read
		}
		switch {
		case err == nil:
		case err == io.EOF && r.off >= r.desc.Size:
			r.err = r.verify()
		default:
			r.err = r.resume(err)
		}
	}
	return 0, r.err
}

func (r *blobReader) verify() error {
	if got := digest.NewDigest(r.desc.Digest.Algorithm(), r.hash); got != r.desc.Digest {
		return corrupt(opPull, r.ref, "the content has another digest: %s", got)
	}
	return io.EOF
}

// resume takes the download up again after cause.
func (r *blobReader) resume(cause error) error {
	r.body.Close()
	if cause == io.EOF {
		cause = io.ErrUnexpectedEOF
	}
	if s := (*wire.Silence)(nil); errors.As(cause, &s) {
		if r.silent++; r.silent > 1 || !s.Repeat {
			r.body = http.NoBody
			return transportError(r.ctx, opPull, r.ref, cause)
		}
	}
	for r.ctx.Err() == nil && r.fails < maxResumes && r.client.options.Retries > 0 {
		if r.fails > 0 {
			if err := sleep(r.ctx, backoff(r.client.options.RetryWait, r.fails-1)); err != nil {
				break
			}
		}
		r.fails++
		err := r.open()
		if err == nil {
			return nil
		}
		var e *Error
		if !errors.As(err, &e) || e.Kind != Unavailable {
			r.body = http.NoBody
			return err
		}
		cause = err
	}
	r.body = http.NoBody
	return transportError(r.ctx, opPull, r.ref, cause)
}

// Close implements io.Closer.
func (r *blobReader) Close() error {
	if r.err == nil {
		r.err = errors.New("reading a closed blob")
	}
	return r.body.Close()
}

// Mount makes a blob of one repository a part of another one on the same
// registry, by one POST. It gives false where the registry cannot do so, or
// does not have the blob there.
func (c *Client) Mount(ctx context.Context, from, to Ref, d ocispec.Descriptor) (bool, error) {
	if from.Name() == to.Name() {
		return true, nil
	}
	if from.Host != to.Host {
		return false, nil
	}
	u, err := c.startUpload(ctx, to, from.Repo, d.Digest)
	if err != nil || u == nil {
		return err == nil, err
	}
	u.cancel(ctx)
	return false, nil
}

// secureLocation keeps credentials from leaving over plain http: a proxy
// that ends TLS often makes the registry answer with http URLs of itself.
func secureLocation(from, location string) string {
	if strings.HasPrefix(from, "https://") {
		if rest, ok := strings.CutPrefix(location, "http://"); ok {
			host, _, _ := strings.Cut(rest, "/")
			own, _, _ := strings.Cut(strings.TrimPrefix(from, "https://"), "/")
			if host == own {
				return "https://" + rest
			}
		}
	}
	return location
}
