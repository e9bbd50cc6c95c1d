package spec

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// files makes a folder out of paths and contents.
func files(pairs ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return out
}

const (
	plainFrom = "FROM python:3.10\n"
	childFrom = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"
)

// ragex is a project with two variants, one of them for two platforms. Its
// layers are declared children first.
var ragex = files("strata.yaml", `image: ghcr.io/user/mcp-ragex
platforms: [linux/amd64, linux/arm64]
variants:
  cpu: {}
  cuda: {platforms: [linux/amd64]}
layers:
  app:
    parent: ml
    dockerfile: docker/app/Dockerfile
    test: [python, -c, "import src.server"]
  base:
    dockerfile:
      cpu/arm64: docker/arm64/Dockerfile.base
      "*": docker/{variant}/Dockerfile.base
    refresh: {every: week, at: "Mon 06:00"}
  ml:
    parent: base
    dockerfile:
      cpu/arm64: docker/arm64/Dockerfile.ml
      "*": docker/{variant}/Dockerfile.ml
    refresh: {every: 2d}
`,
	"docker/cpu/Dockerfile.base", plainFrom, "docker/cpu/Dockerfile.ml", childFrom,
	"docker/arm64/Dockerfile.base", plainFrom, "docker/arm64/Dockerfile.ml", childFrom,
	"docker/cuda/Dockerfile.base", plainFrom, "docker/cuda/Dockerfile.ml", childFrom,
	"docker/app/Dockerfile", childFrom,
)

// allTags gives every tag of a project's units and indexes by their names.
func allTags(p *Project, r Release) map[string][]string {
	got := map[string][]string{}
	for _, u := range p.Units() {
		got[u.ID()] = p.TagsFor(u, r)
	}
	for _, v := range p.Variants {
		for _, l := range p.Layers {
			if tags := p.IndexTags(l.Name, v.Name, r); tags != nil {
				got["index of "+l.Name+" "+v.Name] = tags
			}
		}
	}
	return got
}

func TestDefaultTagsAreThoseOfTheLayeredPlan(t *testing.T) {
	p, err := Load(".", "", LoadOptions{FS: ragex})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"base/cpu/linux/amd64":  {"cpu-base-amd64-VERSION", "cpu-base-amd64-latest"},
		"base/cpu/linux/arm64":  {"cpu-base-arm64-VERSION", "cpu-base-arm64-latest"},
		"base/cuda/linux/amd64": {"cuda-base-VERSION", "cuda-base-latest"},
		"ml/cpu/linux/amd64":    {"cpu-ml-amd64-VERSION", "cpu-ml-amd64-latest"},
		"ml/cpu/linux/arm64":    {"cpu-ml-arm64-VERSION", "cpu-ml-arm64-latest"},
		"ml/cuda/linux/amd64":   {"cuda-ml-VERSION", "cuda-ml-latest"},
		"app/cpu/linux/amd64":   {"latest-cpu-amd64", "VERSION-cpu-amd64"},
		"app/cpu/linux/arm64":   {"latest-cpu-arm64", "VERSION-cpu-arm64"},
		"app/cuda/linux/amd64":  {"cuda-amd64", "VERSION-cuda-amd64", "cuda-latest"},
		"index of app cpu":      {"latest-cpu", "VERSION-cpu"},
	}
	if diff := cmp.Diff(want, allTags(p, Release{Version: "VERSION"})); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}
