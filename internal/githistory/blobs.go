package githistory

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/git"
)

// Blob is the content of a file. The same content is the same *Blob within a
// history.
type Blob struct {
	ID string // git's own, 40 or 64 hexadecimal digits; "" for content that git does not have

	known  bool
	gone   bool          // git does not have it
	digest digest.Digest // sha256 of the content; of a large-file pointer: of what it points to
	size   int64
	lfs    bool
	data   []byte // nil unless it was asked for
}

// Content makes a blob of content that git does not have.
func Content(data []byte) *Blob {
	return &Blob{known: true, digest: digest.FromBytes(data), size: int64(len(data)), data: data}
}

// note keeps what the content of a blob tells.
func (b *Blob) note(size int64, sum []byte, head []byte) {
	b.known, b.size, b.digest = true, size, digest.NewDigestFromBytes(digest.SHA256, sum)
	if sum, n, ok := git.Pointer(head); ok {
		b.lfs, b.size, b.digest = true, n, digest.NewDigestFromEncoded(digest.SHA256, sum)
	}
}

// store reads blobs through one `git cat-file --batch`, which it starts when it
// is first needed. It is safe for concurrent use.
type store struct {
	ctx  context.Context
	repo *git.Repo

	mu    sync.Mutex
	blobs map[string]*Blob
	git   *git.Process
	out   *bufio.Reader // of git
	buf   []byte

	broken error // no further question has an answer
}

func newStore(ctx context.Context, repo *git.Repo) *store {
	return &store{ctx: ctx, repo: repo, blobs: map[string]*Blob{}, buf: make([]byte, 64<<10)}
}

// blob gives the blob with git's ID.
func (s *store) blob(id []byte) *Blob {
	if b, ok := s.blobs[string(id)]; ok {
		return b
	}
	b := &Blob{ID: string(id)}
	s.blobs[b.ID] = b
	return b
}

func (s *store) start() error {
	if s.git != nil {
		return nil
	}
	p, err := s.repo.Start(s.ctx, "cat-file", "--batch")
	if err != nil {
		return err
	}
	s.git, s.out = p, p.Out
	return nil
}

// close ends the process.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.git == nil {
		return nil
	}
	err := s.git.Wait()
	s.git = nil
	if s.broken != nil || s.ctx.Err() != nil {
		return nil // that was told
	}
	return err
}

// load hashes what is not known yet, each content once.
func (s *store) load(blobs []*Blob) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var want []*Blob
	asked := map[*Blob]bool{}
	for _, b := range blobs {
		if !b.known && !asked[b] {
			asked[b] = true
			want = append(want, b)
		}
	}
	if err := s.ask(want, s.hash); err != nil {
		return err
	}
	for _, b := range blobs {
		if b.gone {
			return b.missing()
		}
	}
	return nil
}

// read gives a blob's content as git has it.
func (s *store) read(b *Blob) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.data == nil && !b.gone {
		err := s.ask([]*Blob{b}, func(b *Blob, size int64) error {
			b.data = make([]byte, size)
			_, err := io.ReadFull(s.out, b.data)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if b.gone {
		return nil, b.missing()
	}
	return b.data, nil
}

func (b *Blob) missing() error {
	return diag.Hint(fmt.Errorf("git does not have the object %s: the clone is partial", b.ID), "%s", refetch)
}

// refetch is what helps in a partial clone. Versions of git before 2.44 end when
// an object is missing and can't be fetched, later ones say so.
const refetch = "git fetch --refetch --no-filter"

// ask requests blobs, all at once, and gives their contents to take in turn.
// The requests are written beside the reading, so that neither pipe fills up.
func (s *store) ask(want []*Blob, take func(*Blob, int64) error) error {
	if len(want) == 0 || s.broken != nil {
		return s.broken
	}
	if err := s.start(); err != nil {
		return err
	}
	var requests bytes.Buffer
	for _, b := range want {
		requests.WriteString(b.ID)
		requests.WriteByte('\n')
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.git.In.Write(requests.Bytes())
		wrote <- err
	}()
	var err error
	for _, b := range want {
		if err = s.answer(b, take); err != nil {
			s.git.Kill() // the writer ends with it
			break
		}
	}
	if e := <-wrote; err == nil {
		err = e
	}
	if err != nil {
		s.broken = diag.Hint(fmt.Errorf("reading from git cat-file: %w", err), "%s", refetch)
		if s.ctx.Err() != nil {
			s.broken = context.Cause(s.ctx)
		}
	}
	return s.broken
}

// answer reads what git says about one object: "ID TYPE SIZE", the content and
// a line break, or "ID missing".
func (s *store) answer(b *Blob, take func(*Blob, int64) error) error {
	line, err := s.out.ReadString('\n')
	if err != nil {
		return err
	}
	fields := strings.Fields(line)
	if len(fields) == 2 && fields[1] == "missing" {
		b.gone = true
		return nil
	}
	if len(fields) != 3 || fields[0] != b.ID {
		return fmt.Errorf("it answered %q for %s", strings.TrimSpace(line), b.ID)
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return fmt.Errorf("it answered %q for %s", strings.TrimSpace(line), b.ID)
	}
	if err := take(b, size); err != nil {
		return err
	}
	_, err = s.out.Discard(1)
	return err
}

// hash notes a blob's digest without keeping its content.
func (s *store) hash(b *Blob, size int64) error {
	h := sha256.New()
	var head []byte
	for left := size; left > 0; {
		n, err := s.out.Read(s.buf[:min(left, int64(len(s.buf)))])
		if err != nil {
			return err
		}
		h.Write(s.buf[:n])
		left -= int64(n)
		if size < git.MaxPointer {
			head = append(head, s.buf[:n]...)
		}
	}
	b.note(size, h.Sum(nil), head)
	return nil
}
