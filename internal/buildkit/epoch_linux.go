package buildkit

import (
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bkepoch "github.com/moby/buildkit/exporter/util/epoch"

	"github.com/strata-build/strata/internal/build"
)

// epochOf gives the SOURCE_DATE_EPOCH of a job: its own, else the one that the
// frontend has found out from the Dockerfile. Nil says that nobody asks for one.
func epochOf(j build.Job, src *exporter.Source) (*int64, error) {
	if j.SourceDateEpoch != nil {
		return j.SourceDateEpoch, nil
	}
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	var p *exptypes.Platform
	if len(ps.Platforms) > 0 {
		p = &ps.Platforms[0]
	}
	t, err := bkepoch.ParseSource(src, p)
	if err != nil || t == nil {
		return nil, err
	}
	seconds := t.Unix()
	return &seconds, nil
}
