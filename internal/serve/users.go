package serve

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/strata-build/strata/internal/diag"
)

const (
	maxUsersFile = 1 << 20
	// maxCost bounds what a password may cost to check: at 14 it takes a second.
	maxCost = 14
	// atOnce are how many passwords are checked at a time, so that guessing them
	// can't take all processors.
	atOnce = 2
)

// nobody is compared with where there is no such user, so that an answer takes
// as long as with one.
var nobody = sync.OnceValue(func() []byte {
	h, err := bcrypt.GenerateFromPassword([]byte(rand.Text()), bcrypt.DefaultCost)
	if err != nil {
		panic("internal error: " + err.Error()) // the password is short enough
	}
	return h
})

// Users are those of an htpasswd file with bcrypt hashes. The file is read again
// when it changes; while it can't be read, nobody is let in. They are safe for
// concurrent use.
type Users struct {
	file string
	busy chan struct{}
	seed []byte

	mu     sync.Mutex
	stamp  stamp
	hashes map[string][]byte
	right  map[[sha256.Size]byte]bool // pairs that were found right, by a keyed hash: bcrypt takes 60 ms
}

// stamp tells whether a file has changed.
type stamp struct {
	size  int64
	mtime int64
}

// OpenUsers reads an htpasswd file.
func OpenUsers(file string) (*Users, error) {
	u := &Users{file: file, busy: make(chan struct{}, atOnce), seed: []byte(rand.Text())}
	if err := u.read(); err != nil {
		return nil, diag.Hint(fmt.Errorf("reading the passwords in %q: %w", file, err),
			"a line holds NAME:BCRYPT-HASH: htpasswd -nB NAME writes one")
	}
	return u, nil
}

// read reads the file if it has changed.
func (u *Users) read() error {
	info, err := os.Stat(u.file)
	if err != nil {
		return pathless(err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxUsersFile {
		return errors.New("it is no file of passwords")
	}
	now := stamp{info.Size(), info.ModTime().UnixNano()}
	if u.hashes != nil && now == u.stamp {
		return nil
	}
	f, err := os.Open(u.file)
	if err != nil {
		return pathless(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxUsersFile))
	if err != nil {
		return pathless(err)
	}
	hashes, err := parseUsers(data)
	if err != nil {
		return err
	}
	u.stamp, u.hashes, u.right = now, hashes, map[[sha256.Size]byte]bool{}
	return nil
}

func pathless(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// parseUsers reads lines of NAME:HASH; empty ones and comments do not count. It
// never quotes a line.
func parseUsers(data []byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(string(line), ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("line %d is not NAME:HASH", n)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil {
			return nil, fmt.Errorf("line %d has no bcrypt hash", n)
		}
		if cost > maxCost {
			return nil, fmt.Errorf("line %d has a hash of cost %d, which takes too long: at most %d", n, cost, maxCost)
		}
		if out[name] != nil {
			return nil, fmt.Errorf("line %d has a user that is there already", n)
		}
		out[name] = []byte(hash)
	}
	if len(out) == 0 {
		return nil, errors.New("it has no user")
	}
	return out, nil
}

// Check says whether a password is the user's.
func (u *Users) Check(ctx context.Context, name, password string) bool {
	u.mu.Lock()
	if u.read() != nil {
		u.mu.Unlock()
		return false
	}
	hash, known := u.hashes[name]
	mac := hmac.New(sha256.New, u.seed)
	fmt.Fprintf(mac, "%q %q %q", name, password, hash)
	id := [sha256.Size]byte(mac.Sum(nil))
	right := u.right[id]
	u.mu.Unlock()
	if right {
		return true
	}
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	case <-ctx.Done():
		return false
	}
	if !known {
		_ = bcrypt.CompareHashAndPassword(nobody(), []byte(password))
		return false
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.right[id] = true // under its hash: of no use once the file has another
	return true
}
