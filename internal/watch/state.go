package watch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strata-build/strata/internal/diag"
)

// stateVersion is the form of the state file that this package writes.
const stateVersion = 1

// State is what a service knows. The file is written whole before an action
// begins and after it has ended.
type State struct {
	Version int                    `json:"version"`
	Name    string                 `json:"name"`
	Layers  map[string]*LayerState `json:"layers"`
	Images  map[string]*ImageState `json:"images"`
	Hosts   map[string]time.Time   `json:"hosts,omitempty"` // not asked before
	Jobs    []*Job                 `json:"jobs"`            // in order of their events
}

// LayerState is the newest slot of a layer for which there was an event. A layer
// that left the project keeps it: it may come back.
type LayerState struct {
	Slot  string    `json:"slot"`
	Start time.Time `json:"start"`
	Done  time.Time `json:"done,omitzero"` // when the last action for it ended well
	Given given     `json:"given,omitempty"`
}

// ImageState is what is known of an image.
type ImageState struct {
	Seen    digest.Digest `json:"seen,omitempty"` // at the last look
	Same    digest.Digest `json:"same,omitempty"` // differs from the pinned one, but on no pinned platform
	Told    digest.Digest `json:"told,omitempty"` // the newest with an event
	At      time.Time     `json:"at,omitzero"`    // when that was noticed
	Old     digest.Digest `json:"old,omitempty"`  // what was pinned then
	Given   given         `json:"given,omitempty"`
	Checked time.Time     `json:"checked,omitzero"`
	Next    time.Time     `json:"next"`
	Errors  int           `json:"errors,omitempty"` // in a row
	Error   string        `json:"error,omitempty"`
}

// given is the policies that have the newest event of an image or a layer, done
// or to be done, each with how it acts ([Config.Ways]).
type given map[string]string

// Job is one event that one policy has to act on.
type Job struct {
	Event     Event     `json:"event"`
	Policy    string    `json:"policy"`
	Claimed   time.Time `json:"claimed,omitzero"` // it was begun, and nothing is known of its end
	Attempts  int       `json:"attempts,omitempty"`
	Failures  int       `json:"failures,omitempty"` // in a row, those of events that it took the place of included
	NotBefore time.Time `json:"notBefore,omitzero"`
	Error     string    `json:"error,omitempty"` // of the last failure
}

// store is a state file and its lock.
type store struct {
	file    string
	lock    *os.File
	written []byte // what the file has, once it was written
}

// holder is who has the lock, as the lock file tells.
type holder struct {
	PID     int       `json:"pid"`
	Dir     string    `json:"dir"`
	Started time.Time `json:"started"`
}

// folder is where the state of one name lies; names have slashes.
func folder(root, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(root, hex.EncodeToString(sum[:8]))
}

// openStore takes the lock. It is held by the open file, and so by every command
// that the service started and that outlives it: as long as one runs, no other
// service can run it a second time.
func openStore(c Config) (*store, error) {
	dir := folder(c.State, c.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keeping the state of the watch: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeping the state of the watch: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, heldBy(f, c.Name)
		}
		return nil, fmt.Errorf("locking %q: %w", f.Name(), err)
	}
	me, err := json.Marshal(holder{PID: os.Getpid(), Dir: c.Dir, Started: c.Now().UTC().Truncate(time.Second)})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(me, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %q: %w", f.Name(), err)
	}
	return &store{file: filepath.Join(dir, "state.json"), lock: f}, nil
}

func heldBy(f *os.File, name string) error {
	var h holder
	if err := json.NewDecoder(f).Decode(&h); err != nil {
		return diag.Hint(fmt.Errorf("%s is being watched already", name), "end the other `strata watch`, or give this one another --name")
	}
	who := fmt.Errorf("%s is being watched already, by process %d in %s since %s", name, h.PID, h.Dir, h.Started.Format(time.RFC3339))
	if syscall.Kill(h.PID, 0) == syscall.ESRCH {
		return diag.Hint(fmt.Errorf("%w, or by a command that it started and that still runs", who), "`fuser %s` names it", f.Name())
	}
	return diag.Hint(who, "end it, or give this one another --name")
}

func (s *store) close() error { return s.lock.Close() }

// read gives the state; a new one when there is no file. A file that can't be
// read is an error: to begin anew would repeat what was done.
func (s *store) read() (*State, error) {
	st, err := readState(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return newState(), nil
	}
	return st, err
}

func newState() *State {
	return &State{Version: stateVersion, Layers: map[string]*LayerState{}, Images: map[string]*ImageState{}, Hosts: map[string]time.Time{}}
}

func readState(file string) (*State, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the state of the watch: %w", err)
	}
	st := newState()
	st.Version = 0
	d := json.NewDecoder(bytes.NewReader(data))
	err = d.Decode(st)
	switch {
	case err != nil:
		err = fmt.Errorf("it is damaged: %w", err)
	case st.Version != stateVersion:
		err = fmt.Errorf("its version is %d, this program knows %d", st.Version, stateVersion)
	case d.More():
		err = errors.New("it is damaged: something follows it")
	default:
		err = st.check()
	}
	if err != nil {
		return nil, diag.Hint(fmt.Errorf("reading the state of the watch %q: %w", file, err),
			"to begin anew, with the slots of today acted on once more: rm %s", file)
	}
	return st, nil
}

func (st *State) check() error {
	for name, l := range st.Layers {
		if l == nil || l.Start.IsZero() {
			return fmt.Errorf("it is damaged: layer %q has no slot", name)
		}
	}
	for name, i := range st.Images {
		if i == nil {
			return fmt.Errorf("it is damaged: nothing stands for image %q", name)
		}
	}
	for _, j := range st.Jobs {
		if j == nil || j.Policy == "" || j.Event.Delivery == "" || j.Event.Subject() == "" {
			return errors.New("it is damaged: an action has no event")
		}
	}
	return nil
}

// write replaces the file; when it returns, the state is on the disk.
func (s *store) write(st *State) error {
	data, err := json.MarshalIndent(st, "", " ")
	if err == nil && bytes.Equal(data, s.written) {
		return nil
	}
	if err == nil {
		err = replace(s.file, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keeping the state of the watch: %w", err)
	}
	s.written = data
	return nil
}

// replace writes a file beside the old one, brings it to the disk, and renames
// it; then the folder, so that the new name is on the disk too.
func replace(file string, data []byte) error {
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
