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
	// datedLabel says of a layer that was made here which SOURCE_DATE_EPOCH its
	// times obey: seconds, or "none".
	datedLabel = "strata.build/dated"
	// tableLabel names the coded table of a layer's times in the content store,
	// and keeps it there as long as the layer.
	tableLabel = "containerd.io/gc.ref.content.strata-times"
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
	epoch  string
	table  digest.Digest // of the coded table of its times
}

// epochText writes a SOURCE_DATE_EPOCH for a label.
func epochText(epoch *int64) string {
	if epoch == nil {
		return "none"
	}
	return strconv.FormatInt(*epoch, 10)
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
	out := map[string]string{diffIDLabel: m.diffID.String(), datedLabel: m.epoch}
	if m.table != "" {
		out[tableLabel] = m.table.String()
	}
	return out
}
