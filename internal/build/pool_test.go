package build

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/event"
)

// named is an engine that says which one it is.
type named string

func (n named) Build(context.Context, Job, event.Sink) (Result, error) {
	return Result{}, errors.New(string(n))
}

func TestPoolChoosesByPlatform(t *testing.T) {
	opened := 0
	member := func(name string, platforms ...string) Member {
		return Member{Platforms: platforms, Open: func(context.Context) (Engine, error) {
			opened++
			return named(name), nil
		}}
	}
	p := NewPool([]Member{member("arm", "linux/arm64"), member("amd", "linux/amd64")})
	for platform, want := range map[string]string{
		"linux/arm64": "arm", "linux/amd64": "amd", "linux/s390x": "none of the project's has the platform linux/s390x",
	} {
		for range 2 {
			if _, err := p.Build(t.Context(), Job{Platform: platform}, event.Discard); !strings.Contains(err.Error(), want) {
				t.Errorf("%s went to %v, want %s", platform, err, want)
			}
		}
	}
	if opened != 2 {
		t.Errorf("engines were opened %d times, want each once", opened)
	}
	if _, _, err := p.Run(t.Context(), RunJob{Platform: "linux/amd64"}, event.Discard); err == nil {
		t.Error("an engine that runs no commands ran one")
	}
}
