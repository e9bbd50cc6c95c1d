package registry

import (
	"io"
	"sync"
)

// noting notes why what is uploaded could not be read. Whoever receives the upload
// knows no more than that it ended early, and would be blamed for it.
type noting struct {
	open func() (io.ReadCloser, error)

	mu  sync.Mutex
	err error
}

// Open opens the source.
func (n *noting) Open() (io.ReadCloser, error) {
	r, err := n.open()
	if err != nil {
		return nil, err
	}
	return &notingReader{r, n}, nil
}

// cause gives the source's error in place of one of the upload.
func (n *noting) cause(err error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil || n.err == nil {
		return err
	}
	err, n.err = n.err, nil // the next attempt reads anew
	return err
}

type notingReader struct {
	io.ReadCloser
	noting *noting
}

func (r *notingReader) Read(p []byte) (int, error) {
	k, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		r.noting.mu.Lock()
		r.noting.err = err
		r.noting.mu.Unlock()
	}
	return k, err
}
