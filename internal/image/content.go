package image

import (
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Opener opens a file by its Path.
type Opener func(path string) (io.ReadCloser, error)

// content is where the bytes of a new file come from.
type content interface {
	open() (io.ReadCloser, error)
	want() digest.Digest // what they must be; "" when not known
}

// contextFile is a file of a build context or an image.
type contextFile struct {
	open_  Opener
	path   string
	digest digest.Digest
}

func (c *contextFile) open() (io.ReadCloser, error) { return c.open_(c.path) }
func (c *contextFile) want() digest.Digest          { return c.digest }

// literal is a heredoc.
type literal string

func (l literal) open() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(l))), nil
}
func (l literal) want() digest.Digest { return digest.FromString(string(l)) }
