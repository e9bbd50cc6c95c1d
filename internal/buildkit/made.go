package buildkit

import (
	"strconv"
	"sync"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
)

const (
	// diffIDLabel names the digest of a layer's uncompressed archive.
	diffIDLabel = labels.LabelUncompressed
	// clampedLabel says to which epoch the times in a layer were clamped.
	clampedLabel = "strata.build/clamped"
)

// madeLayers remembers the layers that are being made, so that the content
// store can label them: what BuildKit takes for the uncompressed archive still
// has the times as they were.
type madeLayers struct {
	mu sync.Mutex
	m  map[digest.Digest]madeLayer
}

type madeLayer struct {
	diffID digest.Digest // "" says that the layer is not whole
	epoch  int64
}

func newMadeLayers() *madeLayers { return &madeLayers{m: map[digest.Digest]madeLayer{}} }

func (l *madeLayers) note(blob digest.Digest, made madeLayer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[blob] = made
}

// refuse notes a layer that was not finished.
func (l *madeLayers) refuse(blob digest.Digest) { l.note(blob, madeLayer{}) }

// take gives what is known of a blob, and forgets it.
func (l *madeLayers) take(blob digest.Digest) (madeLayer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	made, ok := l.m[blob]
	delete(l.m, blob)
	return made, ok
}

// labels gives what the content store is to say of the layer.
func (m madeLayer) labels() map[string]string {
	return map[string]string{diffIDLabel: m.diffID.String(), clampedLabel: strconv.FormatInt(m.epoch, 10)}
}
