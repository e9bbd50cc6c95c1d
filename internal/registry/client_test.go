package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/registry/registrytest"
)

var ctx = context.Background()

var simple = registrytest.Image{Layers: []map[string]string{{"etc/": "", "etc/hello": "hello\n"}}}

func TestProbeIsOneRequestEach(t *testing.T) {
	r := registrytest.New(t)
	want := r.PushImage(t, r.Ref("user/app:1"), simple)
	r.TakeLog()

	answers := r.Client.Probe(ctx, []registry.Ref{r.Ref("user/app:1"), r.Ref("user/app:2"), r.Ref("user/other:1")})

	var states []registry.State
	for _, a := range answers {
		states = append(states, a.State)
	}
	if d := cmp.Diff([]registry.State{registry.Hit, registry.Miss, registry.Miss}, states); d != "" {
		t.Error(d, answers[1].Err, answers[2].Err)
	}
	if answers[0].Desc.Digest != want.Digest || digest.FromBytes(answers[0].Body) != want.Digest {
		t.Errorf("hit is %v, want %v", answers[0].Desc, want)
	}
	if !errors.Is(answers[1].Err, registry.ErrNotFound) {
		t.Errorf("a miss has the error %v", answers[1].Err)
	}
	if n := len(r.TakeLog()); n != 3 {
		t.Errorf("%d requests for 3 look-ups", n)
	}
}

func TestPushStreamRequests(t *testing.T) {
	r := registrytest.New(t)
	for _, tc := range []struct {
		name string
		size int
		want []string
	}{
		{"empty", 0, []string{"POST", "PUT"}},
		{"small", 1000, []string{"POST", "PUT"}},
		{"just small", 4 << 20, []string{"POST", "PUT"}},
		{"large", 4<<20 + 1, []string{"POST", "PATCH", "PUT"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			content := bytes.Repeat([]byte("strata "), tc.size/7+1)[:tc.size]
			r.TakeLog()
			d, err := r.Client.PushStream(ctx, r.Ref("user/app"), "x/y", io.MultiReader(bytes.NewReader(content)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, methods(r.TakeLog())); diff != "" {
				t.Error(diff)
			}
			want := ocispec.Descriptor{MediaType: "x/y", Digest: digest.FromBytes(content), Size: int64(tc.size)}
			if diff := cmp.Diff(want, d); diff != "" {
				t.Error(diff)
			}
			got, err := r.Client.ReadBlob(ctx, r.Inside("user/app"), d)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read back %d bytes, %v", len(got), err)
			}
		})
	}
}

func methods(log []string) []string {
	var out []string
	for _, l := range log {
		for i := range l {
			if l[i] == ' ' {
				out = append(out, l[:i])
				break
			}
		}
	}
	return out
}

func TestMountIsOneRequest(t *testing.T) {
	r := registrytest.New(t)
	d, err := r.Client.PushBytes(ctx, r.Ref("user/base"), "x/y", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	r.TakeLog()
	ok, err := r.Client.Mount(ctx, r.Ref("user/base"), r.Ref("user/app"), d)
	if !ok || err != nil {
		t.Fatalf("Mount: %v, %v", ok, err)
	}
	if diff := cmp.Diff([]string{"POST /v2/user/app/blobs/uploads/"}, r.TakeLog()); diff != "" {
		t.Error(diff)
	}
	if has, err := r.Client.HasBlob(ctx, r.Ref("user/app"), d); !has || err != nil {
		t.Errorf("HasBlob after Mount: %v, %v", has, err)
	}
	missing := ocispec.Descriptor{Digest: digest.FromString("nowhere"), Size: 7}
	if ok, err := r.Client.Mount(ctx, r.Ref("user/base"), r.Ref("user/app"), missing); ok || err != nil {
		t.Errorf("Mount of what is not there: %v, %v", ok, err)
	}
	if ok, err := r.Client.Mount(ctx, r.Inside("user/base"), r.Ref("user/app"), d); ok || err != nil {
		t.Errorf("Mount between hosts: %v, %v", ok, err)
	}
}
