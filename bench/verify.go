package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// verify looks into what a side has published: a figure for an image without
// the change in it would be worthless. It asks the registry itself, past the
// proxy, and reads layers from the last one on, until it finds the file.
func (b *bench) verify(ctx context.Context, s side, kind string) error {
	image, file := s.image(), "app/src/module000.py"
	switch kind {
	case caseFile:
	case caseBulk:
		file = "app/src/data/d00/f0000.go"
	default:
		return nil
	}
	want := fmt.Sprintf("edition %d", b.project.edition)
	var m struct {
		Layers    []struct{ Digest string }
		Manifests []struct{ Digest string }
	}
	repo, tag, _ := strings.Cut(image, ":")
	if err := b.fetchJSON(ctx, repo+"/manifests/"+tag, &m); err != nil {
		return err
	}
	if len(m.Manifests) > 0 {
		if err := b.fetchJSON(ctx, repo+"/manifests/"+m.Manifests[0].Digest, &m); err != nil {
			return err
		}
	}
	for i := len(m.Layers) - 1; i >= 0; i-- {
		head, err := b.headOf(ctx, repo+"/blobs/"+m.Layers[i].Digest, file)
		if err != nil {
			return err
		}
		if head == "" {
			continue
		}
		if !strings.Contains(head, want) {
			return fmt.Errorf("checking what %s has published: %s has no %q: %q", s.name(), file, want, head)
		}
		return nil
	}
	return fmt.Errorf("checking what %s has published: %s is in no layer of %s", s.name(), file, image)
}

func (b *bench) fetch(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.registry+"/v2/"+path, nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []string{"image.index", "image.manifest"} {
		req.Header.Add("Accept", "application/vnd.oci."+t+".v1+json")
	}
	for _, t := range []string{"list", ""} {
		req.Header.Add("Accept", "application/vnd.docker.distribution.manifest."+strings.TrimPrefix(t+".v2+json", "."))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("fetching %s: %s", path, resp.Status)
	}
	return resp.Body, nil
}

func (b *bench) fetchJSON(ctx context.Context, path string, v any) error {
	body, err := b.fetch(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(v)
}

// headOf gives the first bytes of a file in a layer; "" when it is not there.
func (b *bench) headOf(ctx context.Context, blob, file string) (string, error) {
	body, err := b.fetch(ctx, blob)
	if err != nil {
		return "", err
	}
	defer body.Close()
	z, err := gzip.NewReader(body)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", blob, err)
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", blob, err)
		}
		if strings.TrimPrefix(strings.TrimPrefix(h.Name, "./"), "/") == file {
			head, err := io.ReadAll(io.LimitReader(t, 64))
			return string(head), err
		}
	}
}
