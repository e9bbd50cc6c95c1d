package origin

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// inMemory is how many bytes of files are kept in memory.
const inMemory = 8 << 20

// spool keeps contents between two passes over them: in memory while they are
// small, else in one file. It is filled by one goroutine; afterwards several may
// read.
type spool struct {
	dir  string // for the file; "" is the system's
	data []byte
	file *os.File // in place of data
	end  int64
	at   map[digest.Digest]extent
}

type extent struct{ offset, size int64 }

// prepare says how much will come.
func (s *spool) prepare(size int64) (err error) {
	s.at = map[digest.Digest]extent{}
	if size <= inMemory {
		return nil
	}
	if s.dir != "" {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return err
		}
	}
	s.file, err = os.CreateTemp(s.dir, "copy-*")
	if err == nil {
		os.Remove(s.file.Name()) // nothing stays behind if this process dies; where it can't be, close does it
	}
	return err
}

// put takes one content. The last one for a sum counts.
func (s *spool) put(sum [32]byte, r io.Reader) error {
	d := digest.NewDigestFromBytes(digest.SHA256, sum[:])
	var n int64
	var err error
	if s.file != nil {
		n, err = io.Copy(s.file, r)
	} else {
		var b []byte
		b, err = io.ReadAll(r)
		n, s.data = int64(len(b)), append(s.data, b...)
	}
	if err != nil {
		return fmt.Errorf("keeping %s: %w", d, err)
	}
	s.at[d] = extent{s.end, n}
	s.end += n
	return nil
}

// opener opens the content with a digest, once it is there.
func (s *spool) opener(d digest.Digest) func(string) (io.ReadCloser, error) {
	return func(name string) (io.ReadCloser, error) {
		e, ok := s.at[d]
		if !ok {
			return nil, fmt.Errorf("the content of %q was not fetched", name)
		}
		var at io.ReaderAt = s.file
		if s.file == nil {
			at = bytes.NewReader(s.data)
		}
		return io.NopCloser(io.NewSectionReader(at, e.offset, e.size)), nil
	}
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
	}
	s.data = nil
}
