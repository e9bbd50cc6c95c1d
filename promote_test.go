package strata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/journal"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/spec"
)

// shelf is a project of two layers, a and b, whose images lie in a registry as
// versions 1, 2 and 3.
type shelf struct {
	t      *testing.T
	config Config
	repo   registry.Ref
	ids    int
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"strata.yaml": "image: demo\nplatforms: [linux/amd64]\nchannels: [dev]\nlayers:\n  a: {}\n  b: {}\n", "Dockerfile": "FROM scratch\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := spec.Load(dir, "", spec.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := registry.OpenEmbedded(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	s := &shelf{t: t, repo: registry.Ref{Host: registry.EmbeddedHost, Repo: "demo"}}
	s.config = Config{Project: p, Client: registry.New(registry.Options{Embedded: e}), Now: time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)}
	for _, v := range []string{"1", "2", "3"} {
		s.push(v+"-a", "a"+v)
		s.push(v+"-b", "b"+v)
	}
	return s
}

// push puts an image under a tag.
func (s *shelf) push(tag, content string) {
	s.t.Helper()
	ctx, c := s.t.Context(), s.config.Client
	config, err := c.PushBytes(ctx, s.repo, ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","content":"`+content+`"}`))
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}})
	if err == nil {
		_, err = c.PutManifest(ctx, s.repo.WithTag(tag), ocispec.MediaTypeImageManifest, body)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) at(tag string) digest.Digest {
	s.t.Helper()
	d, err := s.config.Client.Resolve(s.t.Context(), s.repo.WithTag(tag))
	if errors.Is(err, registry.ErrNotFound) {
		return ""
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return d.Digest
}

func (s *shelf) options() MoveOptions {
	return MoveOptions{Command: "test", NewID: func(at time.Time) (string, error) {
		s.ids++
		return fmt.Sprintf("%s-%08x", at.Format("20060102T150405.000Z"), s.ids), nil
	}}
}

func (s *shelf) promote(from string) (Movement, error) {
	return Promote(s.t.Context(), s.config, Promotion{From: from, To: "dev"}, s.options())
}

func (s *shelf) must(got Movement, err error) Movement {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// holds says that the channel has the images of a version.
func (s *shelf) holds(version string) {
	s.t.Helper()
	for _, l := range []string{"-a", "-b"} {
		if got, want := s.at("dev"+l), s.at(version+l); got != want {
			s.t.Errorf("dev%s is %s, want %s", l, got, want)
		}
	}
}

// interrupted leaves what a command leaves that was killed: the record is
// started, and the first of its tags has moved.
func (s *shelf) interrupted(kind journal.Kind, to string) journal.Record {
	s.t.Helper()
	id, _ := s.options().NewID(s.config.Now.Add(time.Minute))
	r := journal.Record{ID: id, Kind: kind, State: journal.Started, Project: "demo", Channel: "dev", Command: "killed"}
	for _, l := range []string{"-a", "-b"} {
		r.Moves = append(r.Moves, journal.Move{Image: "demo", Tag: "dev" + l, Digest: s.at(to + l), Previous: s.at("dev" + l)})
	}
	s.keep(r)
	s.push("dev-a", "a"+to)
	return r
}

func (s *shelf) keep(r journal.Record) {
	s.t.Helper()
	text, err := r.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.keepText(r.ID, string(text))
}

func (s *shelf) keepText(id, text string) {
	s.t.Helper()
	ctx, c := s.t.Context(), s.config.Client
	err := c.EnsureEmpty(ctx, s.repo)
	if err == nil {
		_, err = c.PutArtifact(ctx, s.repo.WithTag(journal.Tag(id)), ocispec.Descriptor{}, journal.ArtifactType, nil, map[string]string{journal.Annotation: text})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) states() map[string]journal.State {
	s.t.Helper()
	_, moves, _, err := History(context.Background(), s.config, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]journal.State{}
	for _, r := range moves {
		out[r.ID] = r.State
	}
	return out
}

func TestAnInterruptedPromotionIsFinishedFirst(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	r := s.interrupted(journal.Promote, "2")

	dry := s.options()
	dry.DryRun = true
	got := s.must(Promote(t.Context(), s.config, Promotion{From: "3", To: "dev"}, dry))
	if len(got.Finished) != 1 || s.at("dev-b") != s.at("1-b") || s.states()[r.ID] != journal.Started {
		t.Errorf("a dry run says %d to be finished, and has changed something", len(got.Finished))
	}
	got = s.must(s.promote("2"))
	if len(got.Finished) != 1 || !got.Already {
		t.Errorf("repeated: %d finished, already %v", len(got.Finished), got.Already)
	}
	s.holds("2")
	if got := s.states()[r.ID]; got != journal.Done {
		t.Errorf("the record is %s", got)
	}
	s.must(Rollback(t.Context(), s.config, Back{Channel: "dev"}, s.options()))
	s.holds("1")
}

func TestAnInterruptedRollbackIsFinishedAndGoesNoFurther(t *testing.T) {
	s := newShelf(t)
	for _, v := range []string{"1", "2", "3"} {
		s.must(s.promote(v))
	}
	s.interrupted(journal.Rollback, "2")
	got := s.must(Rollback(t.Context(), s.config, Back{Channel: "dev"}, s.options()))
	if !got.Resumed || len(got.Finished) != 1 {
		t.Error("it went on")
	}
	s.holds("2")
	s.must(s.promote("2")) // repeats nothing that would go back
}

func TestWhatHasMovedSinceIsNotFinished(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	r := s.interrupted(journal.Promote, "2")
	s.push("dev-b", "b3") // somebody else
	got := s.must(s.promote("3"))
	if len(got.Abandoned) != 1 || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "demo:dev-b has been moved since") {
		t.Errorf("abandoned %d, warnings %q", len(got.Abandoned), got.Warnings)
	}
	s.holds("3")
	if got := s.states()[r.ID]; got != journal.Abandoned {
		t.Errorf("the record is %s", got)
	}
}

func TestWhatIsGoneCantBeFinished(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	r := s.interrupted(journal.Promote, "2")
	if err := s.config.Client.Delete(t.Context(), s.repo.WithDigest(s.at("2-b"))); err != nil {
		t.Fatal(err)
	}
	_, err := s.promote("3")
	if err == nil || !strings.Contains(err.Error(), "it can't be finished") || !strings.Contains(err.Error(), "it is not there") || diag.HintOf(err) == "" {
		t.Errorf("it says: %v", err)
	}
	s.config.Force = true
	s.must(s.promote("3"))
	s.holds("3")
	if got := s.states()[r.ID]; got != journal.Abandoned {
		t.Errorf("the record is %s", got)
	}
}

func TestTheJournalIsReadWithCare(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	s.keepText("20261122T070000.000Z-00000001", "no record")
	got := s.must(s.promote("2"))
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "passing over demo:strata-j-20261122T070000.000Z-00000001") {
		t.Errorf("warnings %q", got.Warnings)
	}
	s.keepText("20261122T080000.000Z-00000002", `{"version":2}`)
	_, err := s.promote("3")
	if !errors.Is(err, journal.ErrNewer) || diag.HintOf(err) == "" {
		t.Errorf("a record of a newer version: %v", err)
	}
	s.holds("2")
}

// The order of what happened is that of the ids, whatever the clocks of the
// machines say.
func TestIDsFollowTheJournalAndNotTheClock(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	s.config.Now = s.config.Now.Add(-time.Hour)
	s.must(s.promote("2"))
	s.must(s.promote("3"))
	_, moves, _, err := History(t.Context(), s.config, 0)
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, r := range moves {
		from = append(from, r.From)
	}
	if diff := cmp.Diff([]string{"3", "2", "1"}, from); diff != "" {
		t.Error(diff)
	}
	s.must(Rollback(t.Context(), s.config, Back{Channel: "dev"}, s.options()))
	s.holds("2")
}

func TestAPromotionThatSomeoneElseCrossesFails(t *testing.T) {
	s := newShelf(t)
	s.must(s.promote("1"))
	m, err := newMover(t.Context(), s.config, s.options())
	if err != nil {
		t.Fatal(err)
	}
	r := s.interrupted(journal.Promote, "2")
	if _, err := m.whole(t.Context(), r.Moves, nil); err != nil {
		t.Fatal(err)
	}
	// It believes that dev-a stands already; another one has moved it on.
	s.push("dev-a", "a3")
	err = m.act(t.Context(), r, []digest.Digest{r.Moves[0].Digest, r.Moves[1].Previous})
	if err == nil || !strings.Contains(err.Error(), "someone else has moved it meanwhile") {
		t.Errorf("it says: %v", err)
	}
	s.must(s.promote("2"))
	s.holds("2")
}
