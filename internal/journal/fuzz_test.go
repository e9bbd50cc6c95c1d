package journal

import (
	"bytes"
	"testing"
)

// A record that can be read is written again as it was, and whatever stands in a
// journal, the way back is found or refused.
func FuzzDecode(f *testing.F) {
	const move = `{"image":"a","tag":"b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`
	f.Add([]byte(`{"version":1,"id":"20261122T060000.000Z-0123abcd","kind":"promote","state":"done","channel":"c","moves":[`+move+`]}`), "20261122")
	f.Add([]byte(`{"version":1,"id":"20261122T060000.000Z-0123abcd","kind":"rollback","state":"done","channel":"c","undoes":["20261122T060000.000Z-0123abcd"],"moves":[`+move+`]}`), "")
	f.Add([]byte(`null`), "x")
	f.Fuzz(func(t *testing.T, text []byte, id string) {
		r, err := Decode(text)
		if err != nil {
			return
		}
		once, err := r.Encode()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
		other := r
		other.ID = "20261123T060000.000Z-0123abcd"
		h := HistoryOf([]Record{r, other, r}, r.Channel)
		_, _ = h.Back()
		_, _ = h.To(id)
		_, _ = Time(r.ID)
		_ = Unfinished([]Record{r, other})
	})
}
