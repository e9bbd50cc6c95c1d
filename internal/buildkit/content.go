package buildkit

import (
	"context"
	"errors"
	"maps"
	"net"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// labelling is a content store that labels layers that are made here with what
// they are, and every other blob that it takes with the repository that it came
// from. BuildKit drops that knowledge for blobs that it
// pulls late, and would upload them again (a 567 MB parent measured: 567.8 MB
// sent without, 0.5 MB with).
type labelling struct {
	content.Store
	origins *origins
	made    *madeLayers
}

func (s *labelling) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &labellingWriter{Writer: w, store: s}, nil
}

type labellingWriter struct {
	content.Writer
	store *labelling
}

var errNotWhole = errors.New("the layer could not be compressed to its end")

func (w *labellingWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	d := expected
	if d == "" {
		d = w.Digest()
	}
	made, ok := w.store.made.take(d)
	switch {
	case ok && made.diffID == "":
		return errNotWhole
	case ok:
		return w.commitMade(ctx, size, d, made, opts)
	}
	from, ok := w.store.origins.of(d)
	if ok {
		opts = append(opts, withOrigin(from))
	}
	status, unknown := w.Status()
	err := w.Writer.Commit(ctx, size, expected, opts...)
	if err == nil && ok {
		w.store.origins.forget(d)
	}
	if errdefs.IsFailedPrecondition(err) && unknown == nil {
		// Not what its digest or size says. Kept, it would be taken for the beginning
		// of the next download, from whatever registry, which would fail for good.
		_ = w.Close()
		_ = w.store.Abort(ctx, status.Ref) // what can't be removed stays as it was
	}
	return err
}

// commitMade labels a layer that was made here, also where the same was pulled
// before.
func (w *labellingWriter) commitMade(ctx context.Context, size int64, d digest.Digest, made madeLayer, opts []content.Opt) error {
	err := w.Writer.Commit(ctx, size, d, append(opts, withLabels(made.labels()))...)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	info := content.Info{Digest: d, Labels: made.labels()}
	var fields []string
	for name := range info.Labels {
		fields = append(fields, "labels."+name)
	}
	if _, e := w.store.Update(ctx, info, fields...); e != nil {
		return e
	}
	return err
}

func withLabels(add map[string]string) content.Opt {
	return func(info *content.Info) error {
		all := maps.Clone(info.Labels)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, add)
		info.Labels = all
		return nil
	}
}

// withOrigin adds the label that containerd's pusher reads; content.WithLabels
// would drop the labels that are there.
func withOrigin(from origin) content.Opt {
	return func(info *content.Info) error {
		if info.Labels == nil {
			info.Labels = map[string]string{}
		}
		host := from.host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h // the pusher looks for the name without a port
		}
		key := labels.LabelDistributionSource + "." + host
		if labels.Validate(key, from.repo) == nil {
			info.Labels[key] = from.repo
		}
		return nil
	}
}
