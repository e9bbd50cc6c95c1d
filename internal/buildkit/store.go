package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
)

// Usage is what an engine's store holds.
type Usage struct {
	Records int
	Bytes   int64            // of all records, each counted once
	InUse   int64            // of those that can't be removed now
	ByKind  map[string]int64 // bytes by "regular", "exec.cachemount", "source.local", ...
}

// Usage measures the store.
func (e *engine) Usage(ctx context.Context) (Usage, error) {
	infos, err := e.client.DiskUsage(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("measuring store: %w", err)
	}
	u := Usage{Records: len(infos), ByKind: map[string]int64{}}
	for _, i := range infos {
		if i.Shared {
			continue
		}
		u.Bytes += i.Size
		u.ByKind[string(i.RecordType)] += i.Size
		if i.InUse {
			u.InUse += i.Size
		}
	}
	return u, nil
}

// PruneOptions says what Prune may keep. The zero value keeps only what is in
// use.
type PruneOptions struct {
	KeepBytes int64         // remove the least recently used until the store is this small
	KeepFor   time.Duration // keep what was used within this time
}

// Prune removes records and gives the bytes that became free.
func (e *engine) Prune(ctx context.Context, o PruneOptions) (int64, error) {
	ch := make(chan client.UsageInfo)
	sum := make(chan int64)
	go func() {
		var n int64
		for i := range ch {
			n += i.Size
		}
		sum <- n
	}()
	opts := []client.PruneOption{client.PruneAll}
	if o.KeepBytes > 0 || o.KeepFor > 0 {
		opts = append(opts, client.WithKeepOpt(o.KeepFor, 0, o.KeepBytes, 0))
	}
	err := e.client.Prune(ctx, ch, opts...)
	close(ch)
	freed := <-sum
	if err == nil && e.embedded && o == (PruneOptions{}) {
		err = e.forgetBuilds(ctx)
	}
	if err != nil {
		return freed, fmt.Errorf("pruning store: %w", err)
	}
	return freed, nil
}

// forgetBuilds deletes the history of builds, which holds on to the blobs of
// their images.
func (e *engine) forgetBuilds(ctx context.Context) error {
	ctl := e.client.ControlClient()
	events, err := ctl.ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{EarlyExit: true})
	if err != nil {
		return err
	}
	for {
		ev, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ev.Record == nil || ev.Type == controlapi.BuildHistoryEventType_DELETED {
			continue
		}
		req := &controlapi.UpdateBuildHistoryRequest{Ref: ev.Record.Ref, Delete: true}
		if _, err := ctl.UpdateBuildHistory(ctx, req); err != nil {
			return err
		}
	}
}
