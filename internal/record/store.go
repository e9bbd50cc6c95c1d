package record

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Store is a folder of records. There is no index: the name of a file tells
// the time, the project and the outcome, so that a list reads one directory.
// Several processes may use a store at once.
type Store struct {
	dir string
}

// Info is what a file's name tells of a record.
type Info struct {
	ID      string
	Started time.Time
	Outcome Outcome
	Path    string
	slug    string
}

// Warning is a file that could not be read as a record and was passed over.
type Warning struct {
	Path string
	Err  error
}

// Error tells the file and what is wrong with it.
func (w Warning) Error() string { return fmt.Sprintf("passing over record %q: %v", w.Path, w.Err) }

// Unwrap gives what is wrong.
func (w Warning) Unwrap() error { return w.Err }

// ErrNotFound is the cause when there is no record of an ID.
var ErrNotFound = errors.New("there is no such record")

// AmbiguousError says that a part of an ID means several records.
type AmbiguousError struct {
	Part string
	IDs  []string // of the records that it means, the newest first
}

// Error counts them.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("reading record %q: it means %d records", e.Part, len(e.IDs))
}

// Filter chooses records. The zero value chooses all.
type Filter struct {
	Project string    // image of the project
	Outcome Outcome   // "" is any
	Since   time.Time // runs that started then or later
	Until   time.Time // runs that started before
	Limit   int       // the newest so many; 0 is all
}

// Open gives the store in dir, and makes the folder where it is missing.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening records %q: %w", dir, err)
	}
	return &Store{dir: dir}, nil
}

// Write keeps r: after it returns without an error, the record survives a
// crash. A record of the same ID is replaced.
func (s *Store) Write(r Record) error {
	if _, err := timeOf(r.ID); err != nil {
		return fmt.Errorf("writing a record: %w", err)
	}
	data, err := r.Encode()
	if err != nil {
		return err
	}
	name := fileName(r)
	if err := s.replace(name, data); err != nil {
		return fmt.Errorf("writing record %q: %w", r.ID, err)
	}
	return s.dropOthers(r.ID, name)
}

// replace writes a file so that it is there whole or not at all.
func (s *Store) replace(name string, data []byte) (err error) {
	f, err := os.CreateTemp(s.dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error counts
		}
	}()
	_, err = f.Write(data)
	err = cmp.Or(err, f.Sync())
	if err = cmp.Or(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(s.dir, name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// dropOthers removes files of the same run with another outcome.
func (s *Store) dropOthers(id, keep string) error {
	infos, _, err := s.List(Filter{})
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.ID == id && filepath.Base(i.Path) != keep {
			if err := remove(i.Path); err != nil {
				return fmt.Errorf("replacing record %q: %w", id, err)
			}
		}
	}
	return nil
}

// remove removes a file that another process may have removed meanwhile.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List gives what the names of the files tell, the newest first, without
// reading them. Files that are no records are warnings.
func (s *Store) List(f Filter) ([]Info, []Warning, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("listing records %q: %w", s.dir, err)
	}
	var infos []Info
	var warnings []Warning
	slug := projectSlug(f.Project)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		i, err := parseName(e.Name())
		if err != nil {
			warnings = append(warnings, Warning{path, err})
			continue
		}
		i.Path = path
		if f.Project != "" && i.slug != slug || !f.admits(i) {
			continue
		}
		infos = append(infos, i)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(b.ID, a.ID) })
	if f.Limit > 0 && len(infos) > f.Limit {
		infos = infos[:f.Limit]
	}
	return infos, warnings, nil
}

func (f Filter) admits(i Info) bool {
	return (f.Outcome == "" || i.Outcome == f.Outcome) &&
		(f.Since.IsZero() || !i.Started.Before(f.Since)) &&
		(f.Until.IsZero() || i.Started.Before(f.Until))
}

// Records reads the records that f chooses, the newest first. What can't be
// read is passed over, with a warning, and does not count for the limit.
func (s *Store) Records(f Filter) ([]Record, []Warning, error) {
	limit := f.Limit
	f.Limit = 0
	infos, warnings, err := s.List(f)
	if err != nil {
		return nil, nil, err
	}
	var records []Record
	for _, i := range infos {
		if limit > 0 && len(records) == limit {
			break
		}
		r, err := read(i)
		switch {
		case errors.Is(err, fs.ErrNotExist): // pruned or replaced meanwhile
		case err != nil:
			warnings = append(warnings, Warning{i.Path, err})
		default:
			records = append(records, r)
		}
	}
	return records, warnings, nil
}

// Get gives the record whose ID is id or begins or ends with it, if there is
// one only; without one the cause is [ErrNotFound].
func (s *Store) Get(id string) (Record, error) {
	infos, _, err := s.List(Filter{})
	if err != nil {
		return Record{}, err
	}
	infos = slices.DeleteFunc(infos, func(i Info) bool {
		return id == "" || !strings.HasPrefix(i.ID, id) && !strings.HasSuffix(i.ID, id)
	})
	switch len(infos) {
	case 0:
		return Record{}, fmt.Errorf("reading record %q: %w", id, ErrNotFound)
	case 1:
	default:
		several := &AmbiguousError{Part: id}
		for _, i := range infos {
			several.IDs = append(several.IDs, i.ID)
		}
		return Record{}, several
	}
	r, err := read(infos[0])
	if err != nil {
		return Record{}, fmt.Errorf("reading record %q: %w", id, err)
	}
	return r, nil
}

func read(i Info) (Record, error) {
	f, err := os.Open(i.Path)
	if err != nil {
		return Record{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err := cmp.Or(err, f.Close()); err != nil {
		return Record{}, err
	}
	r, err := Decode(data)
	if err == nil && r.ID != i.ID {
		err = fmt.Errorf("it holds run %q", r.ID)
	}
	return r, err
}

// Keep says what [Store.Prune] leaves: a zero field sets no bound.
type Keep struct {
	Count int           // the newest so many
	Age   time.Duration // runs that started within this time
}

// staleTemp is the age at which a temporary file is one that a crash left.
const staleTemp = time.Hour

// Prune removes the records that are beyond k, and what crashes have left. It
// gives the number of records removed. Files that are no records stay.
func (s *Store) Prune(k Keep, now time.Time) (int, error) {
	infos, _, err := s.List(Filter{})
	if err != nil {
		return 0, err
	}
	removed := 0
	for n, i := range infos {
		if (k.Count <= 0 || n < k.Count) && (k.Age <= 0 || now.Sub(i.Started) <= k.Age) {
			continue
		}
		if err := remove(i.Path); err != nil {
			return removed, fmt.Errorf("pruning records: %w", err)
		}
		removed++
	}
	return removed, s.dropTemps(now)
}

func (s *Store) dropTemps(now time.Time) error {
	names, err := filepath.Glob(filepath.Join(s.dir, tempPrefix+"*"))
	if err != nil {
		return fmt.Errorf("pruning records: %w", err)
	}
	for _, n := range names {
		if st, err := os.Stat(n); err == nil && now.Sub(st.ModTime()) > staleTemp {
			if err := remove(n); err != nil {
				return fmt.Errorf("pruning records: %w", err)
			}
		}
	}
	return nil
}

const tempPrefix = ".new-"

// fileName gives ID~OUTCOME~SLUG.json.
func fileName(r Record) string {
	return r.ID + "~" + projectSlug(string(r.Outcome)) + "~" + projectSlug(r.Project) + ".json"
}

// parseName reads what fileName has made.
func parseName(name string) (Info, error) {
	base, ok := strings.CutSuffix(name, ".json")
	parts := strings.Split(base, "~")
	if !ok || len(parts) != 3 {
		return Info{}, fmt.Errorf("it is not named as a record")
	}
	t, err := timeOf(parts[0])
	if err != nil {
		return Info{}, err
	}
	return Info{ID: parts[0], Started: t, Outcome: Outcome(parts[1]), slug: parts[2]}, nil
}

// maxSlug keeps file names below the 255 bytes that file systems allow.
const maxSlug = 150

// projectSlug gives image as a part of a file name: unlike images have unlike
// slugs.
func projectSlug(image string) string {
	var b strings.Builder
	for _, c := range []byte(image) {
		switch {
		case c == '/':
			b.WriteByte('+')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	if b.Len() <= maxSlug {
		return b.String()
	}
	sum := sha256.Sum256([]byte(image))
	return b.String()[:maxSlug] + "=" + hex.EncodeToString(sum[:8])
}
