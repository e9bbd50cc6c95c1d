package image

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/strata-build/strata/internal/printable"
)

// Retime gives a config as if its image had been made at a time: that is when it
// was created, and when each entry of its history behind the first inherited ones
// was, which are those of the image that it stands on. Of these, an ADD loses the
// credentials of its URL. Everything else stays as it is, what nobody here knows
// included.
func Retime(raw []byte, inherited int, when time.Time) ([]byte, error) {
	top, history, err := entries(raw)
	if err != nil {
		return nil, err
	}
	at := marshal(when.UTC())
	for _, h := range history[min(inherited, len(history)):] {
		h["created"] = at
	}
	hideCredentials(history[min(inherited, len(history)):])
	top["created"] = at
	if history != nil {
		top["history"] = marshal(history)
	}
	out, err := json.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("writing the image's config: %w", err)
	}
	return out, nil
}

// HideCredentials gives a config in which the history behind the first inherited
// entries has no credentials in the URL of an ADD.
func HideCredentials(raw []byte, inherited int) ([]byte, error) {
	top, history, err := entries(raw)
	if err != nil || !hideCredentials(history[min(inherited, len(history)):]) {
		return raw, err
	}
	top["history"] = marshal(history)
	return marshal(top), nil
}

func hideCredentials(history []map[string]json.RawMessage) (changed bool) {
	for _, h := range history {
		var was string
		unmarshal(h["created_by"], &was)
		if is := printable.URL(was); is != was && strings.HasPrefix(was, "ADD ") {
			h["created_by"] = marshal(is)
			changed = true
		}
	}
	return changed
}

// Entries counts the entries of a config's history.
func Entries(raw []byte) (int, error) {
	_, history, err := entries(raw)
	return len(history), err
}

func entries(raw []byte) (top map[string]json.RawMessage, history []map[string]json.RawMessage, err error) {
	if err = json.Unmarshal(raw, &top); err == nil {
		if h := top["history"]; len(h) > 0 {
			err = json.Unmarshal(h, &history)
		}
	}
	if err == nil && top == nil {
		err = fmt.Errorf("it is null")
	}
	for i := range history {
		if err == nil && history[i] == nil {
			history[i] = map[string]json.RawMessage{}
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("parsing the image's config: %w", err)
	}
	return top, history, nil
}
