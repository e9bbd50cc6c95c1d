package image

import (
	"encoding/json"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/inventory"
)

// imageWith gives an image with a config as somebody else wrote it.
func imageWith(config []byte) (*Image, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
	}}
	m.SchemaVersion = 2
	var c struct {
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	_ = json.Unmarshal(config, &c)
	for _, d := range c.RootFS.DiffIDs {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: dockerLayerGzip, Digest: digest.FromString(string(d)), Size: 4})
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return Parse(body, config)
}

var oddConfigs = []string{
	`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"config":{"Env":["A=b","=","x"],"Labels":{"a":"b"}},"history":[{"empty_layer":true}]}`,
	`{"os":"linux","architecture":"amd64","config":null,"history":null,"rootfs":null}`,
	`{"os":"linux","config":{"Env":null,"Labels":null,"Entrypoint":null,"Volumes":{"/x":null},"OnBuild":["RUN x"],"WorkingDir":"x/../.."},"history":[null]}`,
	`{"config":{"Healthcheck":{"Interval":-1},"ExposedPorts":{"":{}}},"created":"x"}`,
	`{}`, `null`, `[]`, `{"os":1}`, `{"OS":"linux","os":null,"config":{"env":["a"],"Env":["b"]}}`,
}

// No config that somebody wrote makes an append panic, and what comes out of one is
// an image that can be read and appended to again.
func FuzzAppendToConfig(f *testing.F) {
	for _, c := range oddConfigs {
		f.Add([]byte(c))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		img, err := imageWith(config)
		if err != nil {
			return
		}
		inv := inventory.Empty()
		for _, l := range img.Layers() {
			if inv, err = inv.With(l, nil, inventory.Account{}, inventory.Account{}); err != nil {
				return
			}
		}
		for range 2 {
			a, err := Append(img, inv, []Instruction{copyOf("/x/y", File{Path: "x", Match: "x", Kind: inventory.File, Size: 1, Digest: digest.FromString("y")})},
				Options{Open: opening("y"), Labels: map[string]string{"a": "b"}})
			if err != nil {
				return
			}
			b, err := a.WriteBlob(io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			made, err := a.Image(b)
			if err != nil {
				t.Fatal(err)
			}
			if img, err = Parse(made.Body, made.Config); err != nil {
				t.Fatalf("what was made of %s can't be read: %v", config, err)
			}
			if inv, err = a.Inventory(b); err != nil {
				t.Fatal(err)
			}
			var c ocispec.Image
			if err := json.Unmarshal(made.Config, &c); err != nil || c.Config.Labels["a"] != "b" || len(c.RootFS.DiffIDs) != len(img.Manifest.Layers) {
				t.Fatalf("%s: %v", made.Config, err)
			}
		}
	})
}

// No three configs make a merge panic; what is merged with nothing changed is what
// the new parent has.
func FuzzRebaseConfig(f *testing.F) {
	for i, c := range oddConfigs {
		f.Add([]byte(c), []byte(oddConfigs[(i+1)%len(oddConfigs)]), []byte(oddConfigs[0]))
		f.Add([]byte(c), []byte(c), []byte(c))
	}
	f.Fuzz(func(t *testing.T, child, old, next []byte) {
		var images [3]*Image
		for i, text := range [][]byte{child, old, next} {
			img, err := imageWith(text)
			if err != nil {
				return
			}
			images[i] = img
		}
		merged, _, err := rebaseConfig(images[0], images[1], images[2])
		if err != nil {
			return
		}
		data, err := merged.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseConfig(data); err != nil {
			t.Fatalf("what was merged can't be read: %v\n%s", err, data)
		}
		if _, conflicts, err := rebaseConfig(images[1], images[1], images[2]); err == nil && len(conflicts) > 0 {
			t.Errorf("an image without changes has conflicts: %v", conflicts)
		}
	})
}
