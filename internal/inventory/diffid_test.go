package inventory

import (
	_ "crypto/sha512" // of diff ids
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A layer is read only as what its image's config says it is, in whatever form it
// is compressed; what no runtime would unpack is refused.
func TestLayersAreWhatTheConfigSays(t *testing.T) {
	plain := tarOf(t, text("a", "one"), text("b", "two"))
	other := tarOf(t, text("a", "one"), text("b", "six"))
	half := len(plain) / 2
	good := map[string][]byte{
		"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain),
		"two members":                 slices.Concat(gzipped(t, plain[:half]), gzipped(t, plain[half:])),
		"two frames":                  slices.Concat(zstded(t, plain[:half]), zstded(t, plain[half:])),
		"zeros behind, of the config": nil,
	}
	padded := slices.Concat(plain, make([]byte, 4096))
	for name, blob := range good {
		says := digest.FromBytes(plain)
		if blob == nil {
			blob, says = gzipped(t, padded), digest.FromBytes(padded)
		}
		l := layerOf(blob)
		for _, id := range []digest.Digest{says, "", digest.SHA512.FromBytes(plain)} {
			if id != "" && id.Algorithm() == digest.SHA512 && says != digest.FromBytes(plain) {
				continue
			}
			l.DiffID = id
			if v, err := FromLayers(t.Context(), nil, []Layer{l}); err != nil || v.Lookup("b").Size != 3 {
				t.Errorf("%s, %s: %v", name, id, err)
			}
		}
		l.DiffID = digest.FromBytes(other)
		_, err := FromLayers(t.Context(), nil, []Layer{l})
		var forged *DiffIDError
		if !errors.As(err, &forged) || forged.Want != l.DiffID || forged.Got != says || !strings.Contains(err.Error(), l.Blob.String()) {
			t.Errorf("%s, another's: %v", name, err)
		}
		l.DiffID = "sha256:short"
		if _, err := FromLayers(t.Context(), nil, []Layer{l}); err == nil {
			t.Errorf("%s: a diff id that is no digest was taken", name)
		}
	}
	for name, blob := range map[string][]byte{
		"cut short":                    gzipped(t, plain)[:len(gzipped(t, plain))-9],
		"cut short, zstd":              zstded(t, plain)[:len(zstded(t, plain))-3],
		"garbage behind":               slices.Concat(gzipped(t, plain), []byte("garbage")),
		"garbage behind, zstd":         slices.Concat(zstded(t, plain), []byte("garbage")),
		"another member behind":        slices.Concat(gzipped(t, plain), gzipped(t, other)),
		"another frame behind":         slices.Concat(zstded(t, plain), zstded(t, other)),
		"zeros behind":                 gzipped(t, padded),
		"compressed once more":         gzipped(t, gzipped(t, plain)),
		"of the blob, not its content": nil,
	} {
		l := layerOf(blob)
		l.DiffID = digest.FromBytes(plain)
		if blob == nil {
			l = layerOf(gzipped(t, plain))
			l.DiffID = l.Blob
		}
		if _, err := FromLayers(t.Context(), nil, []Layer{l}); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
