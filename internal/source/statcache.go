package source

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// StatCache remembers the digests of files from run to run by their absolute
// path. A digest is used only while device, inode, size, mode, mtime and ctime
// are what they were. Since ctime can't be set, an edit that restores size and
// mtime is seen.
//
// What was changed just before it was hashed is not kept: a second edit within
// the same tick of the file system's clock would leave every one of these
// values as it is.
//
// It is safe for concurrent use, and a nil *StatCache is an empty one.
type StatCache struct {
	path string
	now  func() time.Time

	mu      sync.RWMutex
	index   map[string]int32 // path -> records
	paths   []string
	records []record
	dirty   bool
}

// record is what is kept of one file.
type record struct {
	stamp
	size  int64
	sum   [sha256.Size]byte
	day   int32 // when it was last used, in days since 1970
	plain bool  // it has no attributes to read
}

const (
	// cacheHeader names the format; another version is not read.
	cacheHeader = "strata stat cache 1\n"
	// racyMargin is more than a tick of every file system in use: FAT counts
	// in 2 s, ext3 and HFS+ in 1 s, the kernel's coarse clock in 1 to 10 ms.
	racyMargin = int64(2500 * time.Millisecond)
	// keepDays is how long the digest of a file that nobody asks for is kept.
	keepDays = 30
	// fixedSize is that of a record without its path.
	fixedSize = 8*5 + 4*4 + 1 + sha256.Size
)

// OpenStatCache reads the cache file at path. A file that is missing, torn, or
// of another version makes an empty cache: it only costs time.
func OpenStatCache(path string) *StatCache {
	c := &StatCache{path: path, now: time.Now, index: map[string]int32{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return c
	}
	if !c.decode(data) {
		c.index, c.paths, c.records = map[string]int32{}, nil, nil
	}
	return c
}

// Save writes the cache if it changed: into a temporary file first, then
// renamed. Of two processes that save at once, one wins.
func (c *StatCache) Save() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return fmt.Errorf("saving stat cache %q: %w", c.path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), filepath.Base(c.path)+".*")
	if err != nil {
		return fmt.Errorf("saving stat cache %q: %w", c.path, err)
	}
	_, err = f.Write(c.encode())
	// No sync: a file that a crash tears fails its checksum.
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("saving stat cache %q: %w", c.path, err)
	}
	c.dirty = false
	return nil
}

// clock gives the time in ns since 1970.
func (c *StatCache) clock() int64 {
	if c == nil {
		return 0
	}
	return c.now().UnixNano()
}

// lookup gives the record of a path, to be compared with the file's stamp. It
// notes the use, at most once a day.
func (c *StatCache) lookup(key []byte) (record, bool) {
	if c == nil {
		return record{}, false
	}
	c.mu.RLock()
	i, ok := c.index[string(key)]
	var r record
	if ok {
		r = c.records[i]
	}
	c.mu.RUnlock()
	if today := c.today(); ok && r.day != today {
		c.mu.Lock()
		c.records[i].day = today
		// Rewriting the file for the sake of the date alone can wait.
		c.dirty = c.dirty || today-r.day > keepDays/4
		c.mu.Unlock()
	}
	return r, ok
}

// store keeps a record unless the file is too young to be trusted, and says
// whether it did. began is the time before the file was looked at.
func (c *StatCache) store(key string, r record, began int64) bool {
	if c == nil || r.ctime == 0 || r.ctime > began-racyMargin {
		return false
	}
	// An mtime in the far future is no sign of youth: a write would reset it.
	if r.mtime > began-racyMargin && r.mtime < began+racyMargin {
		return false
	}
	r.day = c.today()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(key, r)
	c.dirty = true
	return true
}

func (c *StatCache) put(key string, r record) {
	if i, ok := c.index[key]; ok {
		c.records[i] = r
		return
	}
	c.index[key] = int32(len(c.records))
	c.paths = append(c.paths, key)
	c.records = append(c.records, r)
}

func (c *StatCache) today() int32 { return int32(c.now().Unix() / (24 * 60 * 60)) }

// encode gives header, records and a checksum over both. Records that nobody
// used for long are left out.
func (c *StatCache) encode() []byte {
	size := len(cacheHeader) + 4 + sha256.Size
	for _, p := range c.paths {
		size += fixedSize + 4 + len(p)
	}
	le := binary.LittleEndian
	b := append(make([]byte, 0, size), cacheHeader...)
	b = le.AppendUint32(b, 0)
	oldest, count := c.today()-keepDays, uint32(0)
	for i, p := range c.paths {
		r := &c.records[i]
		if r.day < oldest {
			continue
		}
		count++
		for _, v := range [...]uint64{r.dev, r.ino, uint64(r.mtime), uint64(r.ctime), uint64(r.size)} {
			b = le.AppendUint64(b, v)
		}
		for _, v := range [...]uint32{r.mode, r.links, uint32(r.day), uint32(len(p))} {
			b = le.AppendUint32(b, v)
		}
		plain := byte(0)
		if r.plain {
			plain = 1
		}
		b = append(b, plain)
		b = append(b, r.sum[:]...)
		b = append(b, p...)
	}
	le.PutUint32(b[len(cacheHeader):], count)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decode reads what encode wrote, and says whether it is whole.
func (c *StatCache) decode(data []byte) bool {
	body := len(data) - sha256.Size
	if body < len(cacheHeader)+4 || string(data[:len(cacheHeader)]) != cacheHeader {
		return false
	}
	if sha256.Sum256(data[:body]) != [sha256.Size]byte(data[body:]) {
		return false
	}
	le := binary.LittleEndian
	count := int(le.Uint32(data[len(cacheHeader):]))
	b := data[len(cacheHeader)+4 : body]
	if count > len(b)/fixedSize {
		return false
	}
	text := string(b) // the paths share one string
	c.index = make(map[string]int32, count)
	c.paths = make([]string, 0, count)
	c.records = make([]record, 0, count)
	for at := 0; at < len(b); {
		if len(b)-at < fixedSize {
			return false
		}
		f := b[at:]
		r := record{
			stamp: stamp{
				dev: le.Uint64(f), ino: le.Uint64(f[8:]), mtime: int64(le.Uint64(f[16:])), ctime: int64(le.Uint64(f[24:])),
				mode: le.Uint32(f[40:]), links: le.Uint32(f[44:]),
			},
			size: int64(le.Uint64(f[32:])), day: int32(le.Uint32(f[48:])), plain: f[56] == 1,
		}
		n := int(le.Uint32(f[52:]))
		copy(r.sum[:], f[57:])
		at += fixedSize
		if n > len(b)-at {
			return false
		}
		c.put(text[at:at+n], r)
		at += n
	}
	return len(c.records) == count
}
