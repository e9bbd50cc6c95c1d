package buildkit

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// workTimes knows when this engine has worked, now and in earlier processes. A
// file whose time lies within was made by a step, whichever layer or stage it is
// copied through afterwards; a file with a time of its own, out of an archive or
// a package, is older.
//
// It is kept as lines of two numbers, begin and end in ns, in a file of the
// engine's folder. A line without an end is of work that was killed.
type workTimes struct {
	path string

	mu   sync.Mutex
	past []span
	now  map[int]int64 // begins of what is under way
	next int
}

type span struct{ begin, end int64 }

const (
	// clockSlack is by how much the clock of a file system may lag behind that
	// which begin reads: it is as coarse as the kernel's tick.
	clockSlack = int64(20 * time.Millisecond)
	// maxSpans bounds what is kept. A store does not keep snapshots of so many
	// builds.
	maxSpans = 20_000
)

// openWorkTimes reads the file. One that can't be read is begun anew: files of
// earlier builds then keep their times.
func openWorkTimes(path string) *workTimes {
	w := &workTimes{path: path, now: map[int]int64{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return w
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	count, newest := 0, int64(0)
	var begins []int64
	open := map[int64]bool{}
	for lines.Scan() {
		var s span
		n, _ := fmt.Sscan(lines.Text(), &s.begin, &s.end)
		if n == 0 || n == 1 && s.begin < newest-int64(time.Hour) {
			continue // it is torn
		}
		count++
		newest = max(newest, s.begin)
		begins = append(begins, s.begin)
		open[s.begin] = n == 1
		if n == 2 {
			w.past = append(w.past, s)
		}
	}
	slices.Sort(begins)
	for i, b := range begins {
		if !open[b] || i > 0 && begins[i-1] == b {
			continue
		}
		// It was killed, before whatever came next.
		end := time.Now().UnixNano()
		if i+1 < len(begins) {
			end = begins[i+1]
		}
		w.past = append(w.past, span{b, end})
	}
	w.past = merge(w.past)
	if count > 2*len(w.past)+100 {
		w.rewrite()
	}
	return w
}

// merge sorts spans, joins those that overlap and drops the oldest if there are
// too many.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	var out []span
	for _, s := range spans {
		if last := len(out) - 1; last >= 0 && s.begin <= out[last].end {
			out[last].end = max(out[last].end, s.end)
			continue
		}
		out = append(out, s)
	}
	return out[max(0, len(out)-maxSpans):]
}

func (w *workTimes) rewrite() {
	var b bytes.Buffer
	for _, s := range w.past {
		fmt.Fprintln(&b, s.begin, s.end)
	}
	if tmp := w.path + ".new"; os.WriteFile(tmp, b.Bytes(), 0o600) == nil {
		_ = os.Rename(tmp, w.path) // the longer file says the same
	}
}

// begin notes that work begins; done that it has ended.
func (w *workTimes) begin() (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, begin := w.next, time.Now().UnixNano()-clockSlack
	w.next++
	w.now[id] = begin
	w.note(begin)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.now, id)
		end := time.Now().UnixNano()
		w.past = append(w.past, span{begin, end})
		w.note(begin, end)
	}
}

func (w *workTimes) note(numbers ...int64) {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // the next process takes what was made now for older: its times are kept
	}
	defer f.Close()
	line := ""
	for _, n := range numbers {
		line += fmt.Sprint(n, " ")
	}
	fmt.Fprintln(f, line)
}

// made says whether a time, in ns, is one at which this engine has worked. The
// clock gives whole seconds once in a thousand million times, archives always:
// in the past, these are theirs. Now they are of what a step has made and copied
// with a program that knows only seconds.
func (w *workTimes) made(ns int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	whole := ns%1e9 == 0
	for _, begin := range w.now {
		if whole {
			begin -= begin % 1e9
		}
		if ns >= begin && ns <= time.Now().UnixNano() {
			return true
		}
	}
	return !whole && w.within(ns, ns)
}

// madeIn is made for a time of which only the second is known.
func (w *workTimes) madeIn(second int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, to := second*1e9, second*1e9+1e9-1
	for _, begin := range w.now {
		if to >= begin && from <= time.Now().UnixNano() {
			return true
		}
	}
	return w.within(from, to)
}

func (w *workTimes) within(from, to int64) bool {
	return slices.ContainsFunc(w.past, func(s span) bool { return to >= s.begin && from <= s.end })
}
