package githistory

import (
	"bufio"
	"bytes"
	"io"
	"testing"
	"unicode/utf8"

	"github.com/strata-build/strata/internal/git"
)

// What git writes of a history holds names and messages of strangers. Whatever they
// are, reading ends, and what it gives can be shown.
func FuzzLog(f *testing.F) {
	const change = ":100644 100755 0123456789012345678901234567890123456789 9876543210987654321098765432109876543210 M\x00a b\x00"
	f.Add([]byte(header + "abc 1700000000 def ghi\nsubject\x00\n" + change))
	f.Add([]byte(header + "abc 1700000000\n\xff\x1b[31m\x00" + header + "abd 1600000000\n\x00"))
	f.Add([]byte(change + header))
	f.Add([]byte(header + "abc 99999999999999999999\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h := &History{store: newStore(t.Context(), &git.Repo{})}
		r := rawReader{out: bufio.NewReaderSize(bytes.NewReader(text), 16)}
		tokens := 0
		for {
			token, err := r.token()
			if err == io.EOF {
				break
			}
			if tokens++; tokens > len(text)+1 {
				t.Fatal("it does not end")
			}
			if err == nil && len(token) > 0 {
				err = h.add(&r, string(token))
			}
			if err != nil {
				return
			}
		}
		for i, c := range h.Commits {
			if i > 0 && c.Time.Before(h.Commits[i-1].Time) {
				t.Errorf("%s is from before its parent", c.ID)
			}
			if !utf8.ValidString(c.Subject) {
				t.Errorf("the subject %q", c.Subject)
			}
		}
	})
}
