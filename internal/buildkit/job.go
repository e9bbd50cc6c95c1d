package buildkit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/strata-build/strata/internal/build"
	"github.com/strata-build/strata/internal/diag"
)

// embeddedCaches are the cache types that the embedded engine was built with.
var embeddedCaches = []string{"registry", "local", "inline"}

// localAttr is the exporter attribute that names a local job to the embedded
// engine's own exporter.
const localAttr = "strata-job"

// Attributes of exporters: the time that they write, and whether into files, too.
const (
	sourceDateEpoch  = "source-date-epoch"
	rewriteTimestamp = "rewrite-timestamp"
)

// jobNetworks are those that a job can have; "" is the engine's own.
var jobNetworks = []string{"", "none", "host"}

// check finds what BuildKit would refuse late or with words of its own.
func (e *engine) check(j build.Job) error {
	if j.ContextDir == "" {
		return errNoContext
	}
	for _, c := range slices.Concat(j.CacheFrom, j.CacheTo) {
		if e.embedded && !slices.Contains(embeddedCaches, c.Type) {
			return diag.Hint(fmt.Errorf("using cache type %q: the embedded engine has only %s",
				c.Type, strings.Join(embeddedCaches, ", ")),
				"use type=registry, or name a BuildKit that has it with --engine")
		}
	}
	if err := oneOf("network", j.Network, jobNetworks...); err != nil {
		return err
	}
	if j.Export != nil {
		if err := oneOf("export type", j.Export.Type, client.ExporterOCI, client.ExporterDocker, client.ExporterTar); err != nil {
			return err
		}
	}
	return oneOf("compression", j.Compression, "", "gzip", "zstd")
}

func oneOf(what, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("using %s %q: it is none of %q", what, value, known)
}

// mayAskForHost says whether to ask for the host's network. The embedded engine
// grants it; another one refuses a build that asks in vain, so it is asked for
// only where it is needed.
func (e *engine) mayAskForHost(j build.Job) bool {
	if e.embedded {
		return j.Network != "none"
	}
	return j.Network == "host" || bytes.Contains(j.Dockerfile, []byte("--network=host"))
}

// solveOpt translates j into BuildKit's words.
func (e *engine) solveOpt(s *sending, local string) (client.SolveOpt, error) {
	j := s.job
	attachables, err := e.attachables(j)
	if err != nil {
		return client.SolveOpt{}, err
	}
	attrs, err := frontendAttrs(j)
	if err != nil {
		return client.SolveOpt{}, err
	}
	mounts, err := localMounts(s)
	if err != nil {
		return client.SolveOpt{}, err
	}
	policy, err := pinPolicy(j.Pins)
	if err != nil {
		return client.SolveOpt{}, err
	}
	opt := client.SolveOpt{
		Ref:           newRef(),
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   mounts,
		SharedKey:     sharedKey(j),
		Session:       attachables,
		SourcePolicy:  policy,
		Exports:       exports(j, local),
		CacheImports:  caches(j.CacheFrom),
		CacheExports:  caches(j.CacheTo),
	}
	if e.mayAskForHost(j) {
		opt.AllowedEntitlements = []string{string(entitlements.EntitlementNetworkHost)}
	}
	return opt, nil
}

// sharedKey keeps the copies of different build contexts apart that the engine
// holds to transfer only what changed. In a copy it does not notice when a file
// is not marked any more, so jobs that mark other files have copies of their own.
func sharedKey(j build.Job) string {
	key := j.ContextDir
	for _, context := range slices.Sorted(maps.Keys(j.Marks)) {
		for _, file := range slices.Sorted(maps.Keys(j.Marks[context])) {
			key += "\x00" + context + "\x00" + file
		}
	}
	sum := sha256.Sum256([]byte(key))
	return "strata:" + hex.EncodeToString(sum[:12])
}

func frontendAttrs(j build.Job) (map[string]string, error) {
	attrs := map[string]string{
		"filename": path.Base(dockerfileName(j)),
		"platform": j.Platform,
	}
	if ref, ok := ownSyntax(j.Dockerfile); ok {
		attrs["cmdline"] = ref // tells the built-in frontend that it is the one
	}
	if j.Target != "" {
		attrs["target"] = j.Target
	}
	if j.NoCache {
		attrs["no-cache"] = ""
	}
	if j.Network != "" {
		attrs["force-network-mode"] = j.Network
	}
	for name, value := range j.Args {
		attrs["build-arg:"+name] = value
	}
	for name, from := range j.Contexts {
		if filepath.IsAbs(from) {
			from = "local:" + contextMount(name)
		}
		attrs["context:"+name] = from
	}
	for image, d := range j.Pins {
		if name, _, ok := strings.Cut(image, "::"); ok {
			attrs["context:"+image] = "docker-image://" + name + "@" + d.String()
		}
	}
	return attrs, nil
}

func contextMount(name string) string { return "context-" + name }

// dockerfileName is the name under which the Dockerfile is shown.
func dockerfileName(j build.Job) string {
	if j.Name == "" {
		return "Dockerfile"
	}
	return filepath.ToSlash(j.Name)
}

func localMounts(s *sending) (map[string]fsutil.FS, error) {
	j := s.job
	main, err := contextFS(s, "", j.ContextDir)
	if err != nil {
		return nil, fmt.Errorf("opening build context %q: %w", j.ContextDir, err)
	}
	mounts := map[string]fsutil.FS{"context": main, "dockerfile": dockerfileFS(j)}
	for name, from := range j.Contexts {
		if !filepath.IsAbs(from) {
			continue
		}
		if mounts[contextMount(name)], err = contextFS(s, name, from); err != nil {
			return nil, fmt.Errorf("opening named context %q: %w", name, err)
		}
	}
	return mounts, nil
}

// pinPolicy makes BuildKit take an image at its digest wherever the Dockerfile
// names it by tag: FROM, COPY --from, mounts. An image with a platform
// ("IMAGE::linux/arm64") is pinned by a named context instead.
func pinPolicy(pins map[string]digest.Digest) (*spb.Policy, error) {
	p := &spb.Policy{Version: 1}
	for _, image := range slices.Sorted(maps.Keys(pins)) {
		if strings.Contains(image, "::") {
			continue
		}
		named, err := reference.ParseNormalizedNamed(image)
		if err != nil {
			return nil, fmt.Errorf("pinning image %q: %w", image, err)
		}
		if _, ok := named.(reference.Digested); ok {
			continue // pinned by the Dockerfile itself
		}
		from := "docker-image://" + reference.TagNameOnly(named).String()
		p.Rules = append(p.Rules, &spb.Rule{
			Action:   spb.PolicyAction_CONVERT,
			Selector: &spb.Selector{Identifier: from, MatchType: spb.MatchType_EXACT},
			Updates:  &spb.Update{Identifier: from + "@" + pins[image].String()},
		})
	}
	if len(p.Rules) == 0 {
		return nil, nil
	}
	return p, nil
}

func caches(in []build.Cache) []client.CacheOptionsEntry {
	out := make([]client.CacheOptionsEntry, 0, len(in))
	for _, c := range in {
		out = append(out, client.CacheOptionsEntry{Type: c.Type, Attrs: maps.Clone(c.Attrs)})
	}
	return out
}

func exports(j build.Job, local string) []client.ExportEntry {
	common := map[string]string{
		"oci-mediatypes":    "true",
		"force-compression": "false",
		"compression":       "gzip",
	}
	if j.SourceDateEpoch != nil {
		common[sourceDateEpoch] = strconv.FormatInt(*j.SourceDateEpoch, 10)
	}
	if j.SourceDateEpoch != nil || j.EngineEpoch {
		common[rewriteTimestamp] = "true"
	}
	if j.Compression != "" {
		common["compression"] = j.Compression
	}
	var out []client.ExportEntry
	switch {
	case local != "":
		attrs := maps.Clone(common)
		attrs[localAttr] = local
		delete(attrs, rewriteTimestamp) // the layers are made so
		out = append(out, client.ExportEntry{Type: client.ExporterImage, Attrs: attrs})
	case j.Repository != "":
		attrs := maps.Clone(common)
		maps.Copy(attrs, map[string]string{"name": j.Repository, "push": "true", "push-by-digest": "true"})
		out = append(out, client.ExportEntry{Type: client.ExporterImage, Attrs: attrs})
	}
	if j.Export != nil {
		attrs := common
		if j.Export.Name != "" && j.Export.Type != client.ExporterTar {
			attrs["name"] = j.Export.Name
		}
		if j.Export.Type == client.ExporterTar {
			attrs = nil
		}
		open := j.Export.Open
		out = append(out, client.ExportEntry{
			Type:   j.Export.Type,
			Attrs:  attrs,
			Output: func(map[string]string) (io.WriteCloser, error) { return open() },
		})
	}
	return out
}

var errSecretSource = errors.New("one of env and file must be set")
