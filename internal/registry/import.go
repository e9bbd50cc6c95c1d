package registry

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strata-build/strata/internal/diag"
)

// ImportConfig is what an imported image says besides its files.
type ImportConfig struct {
	Env         []string // "PATH=..." is added where it is missing
	Cmd         []string
	Entrypoint  []string
	User        string
	WorkingDir  string
	Labels      map[string]string
	Annotations map[string]string // of the manifest
}

// Imported is what an import has made.
type Imported struct {
	Ref      Ref                // where: in the embedded registry
	Index    ocispec.Descriptor // what the tag points to now
	Manifest ocispec.Descriptor // the imported platform
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ImportRootfs makes an image of one layer from a root file system, a tar
// stream that may be compressed by gzip or zstd, and keeps it in the embedded
// registry under ref (for another host, in that host's mirror: a FROM finds it
// there). The tag always
// holds an index: other platforms in it stay, the same platform is replaced.
// The same input gives the same digests on every machine and day. Files keep
// their times, in whole seconds: bytecode and indexes in it name them. The newest
// is the image's. Device nodes and owner names are left out, as in images from
// Docker Hub.
func (e *Embedded) ImportRootfs(ctx context.Context, ref Ref, platform string, rootfs io.Reader, cfg ImportConfig) (Imported, error) {
	ref = ref.Mirror()
	if ref.Tag == "" {
		ref.Tag = "latest"
	}
	out := Imported{Ref: ref}
	p, err := platforms.Parse(platform)
	if err != nil {
		return out, diag.Hint(fmt.Errorf("importing %q: reading the platform %q: %w", ref, platform, err),
			"a platform is OS/ARCH, for example linux/amd64")
	}
	p = platforms.Normalize(p)
	c := New(Options{Embedded: e, Credential: anonymous, fillMirrors: true})
	layer, made, err := importLayer(ctx, c, ref, rootfs)
	if err != nil {
		return out, fmt.Errorf("importing %q: %w", ref, err)
	}
	if out.Manifest, err = putImported(ctx, c, ref, p, layer, made, cfg); err != nil {
		return out, err
	}
	unlock, err := e.lockTags(ctx)
	if err != nil {
		return out, err
	}
	defer unlock()
	out.Index, err = addToIndex(ctx, c, ref, out.Manifest)
	return out, err
}

func anonymous(context.Context, string) (Credential, error) { return Credential{}, nil }

// importedLayer is what is known of a layer once it is written.
type importedLayer struct {
	diffID digest.Digest
	newest int64 // time of a file, seconds; 0 when there is none
}

// importLayer compresses and uploads the layer while it is read.
func importLayer(ctx context.Context, c *Client, ref Ref, rootfs io.Reader) (ocispec.Descriptor, importedLayer, error) {
	in, err := decompress(rootfs)
	if err != nil {
		return ocispec.Descriptor{}, importedLayer{}, err
	}
	defer in.Close()
	pr, pw := io.Pipe()
	made := make(chan importedLayer, 1)
	go func() {
		l, err := writeLayer(pw, in)
		made <- l
		pw.CloseWithError(err)
	}()
	d, err := c.PushStream(ctx, ref, ocispec.MediaTypeImageLayerGzip, pr)
	pr.CloseWithError(errors.New("the upload has ended")) // so that the writer ends too
	return d, <-made, err
}

// decompress finds out how a stream is compressed, by its first bytes.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, _ := br.Peek(6)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return nil, diag.Hint(errors.New("the archive is compressed by xz"), "unpack it on the way: xz -dc FILE | strata registry import - ...")
	}
	return io.NopCloser(br), nil
}

// gzipBlock is what pgzip compresses at once. The output depends on it, so it
// is part of the format; it does not depend on the number of goroutines.
const gzipBlock = 1 << 20

// writeLayer rewrites a tar stream in reproducible form and compresses it.
func writeLayer(w io.Writer, r io.Reader) (importedLayer, error) {
	zw, err := pgzip.NewWriterLevel(w, 6)
	if err != nil {
		return importedLayer{}, err
	}
	if err := zw.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)); err != nil {
		return importedLayer{}, err
	}
	plain := digest.SHA256.Digester()
	newest, err := rewriteTar(io.MultiWriter(zw, plain.Hash()), r)
	return importedLayer{plain.Digest(), newest}, errors.Join(err, zw.Close())
}

// latest is the year 2100. A file that is dated beyond it does not date the
// image; that it lies in the future would depend on the day.
const latest = 4102444800

// rewriteTar gives the newest time of a file.
func rewriteTar(w io.Writer, r io.Reader) (newest int64, err error) {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	entries := 0
	devices := map[string]bool{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("reading the archive: %w", err)
		}
		name, device := rootedName(h.Name), h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock
		h, err = importHeader(h)
		if err != nil {
			return 0, err
		}
		// Another name of a device that is left out is one.
		if device || h != nil && h.Typeflag == tar.TypeLink && devices[h.Linkname] {
			devices[name] = true
			continue
		}
		if h == nil {
			continue
		}
		delete(devices, name)
		entries++
		if t := h.ModTime.Unix(); t <= latest {
			newest = max(newest, t)
		}
		if err := tw.WriteHeader(h); err != nil {
			return 0, fmt.Errorf("writing %q: %w", h.Name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return 0, fmt.Errorf("copying %q: %w", h.Name, err)
		}
	}
	if entries == 0 {
		return 0, errors.New("the archive holds no files")
	}
	return newest, tw.Close()
}

// importHeader gives the header that is written for h; nil leaves the entry
// out: the root itself, device nodes, and formats' own entries.
func importHeader(h *tar.Header) (*tar.Header, error) {
	if isSparse(h) { // a few bytes could stand for any number of zeros
		return nil, diag.Hint(fmt.Errorf("the archive has a sparse file: %q", h.Name), "make the archive without tar's --sparse")
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo:
	case tar.TypeChar, tar.TypeBlock, tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, fmt.Errorf("the archive has an entry of the unknown type %q: %q", h.Typeflag, h.Name)
	}
	name := rootedName(h.Name)
	if name == "" {
		return nil, nil
	}
	if strings.Contains("/"+h.Name+"/", "/../") {
		return nil, fmt.Errorf("the archive leads out of itself: %q", h.Name)
	}
	out := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size,
		Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: time.Unix(h.ModTime.Unix(), 0), Format: tar.FormatPAX,
	}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Name += "/"
	case tar.TypeLink:
		out.Linkname = rootedName(h.Linkname)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if out.PAXRecords == nil {
				out.PAXRecords = map[string]string{}
			}
			out.PAXRecords[k] = h.PAXRecords[k]
		}
	}
	return out, nil
}

// rootedName gives a name of an archive relative to its root.
func rootedName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func putImported(ctx context.Context, c *Client, ref Ref, p ocispec.Platform, layer ocispec.Descriptor,
	made importedLayer, cfg ImportConfig,
) (ocispec.Descriptor, error) {
	created := time.Unix(made.newest, 0).UTC()
	env := cfg.Env
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	config, err := json.Marshal(ocispec.Image{
		Created: &created, Platform: p,
		Config: ocispec.ImageConfig{
			User: cfg.User, Env: env, Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd,
			WorkingDir: cfg.WorkingDir, Labels: cfg.Labels,
		},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{made.diffID}},
		History: []ocispec.History{{Created: &created, CreatedBy: "strata registry import"}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{layer}, Annotations: cfg.Annotations,
	}
	if m.Config, err = c.PushBytes(ctx, ref, ocispec.MediaTypeImageConfig, config); err != nil {
		return ocispec.Descriptor{}, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := c.PutManifest(ctx, ref.Repository(), m.MediaType, body)
	d.Platform = &p
	return d, err
}

// addToIndex puts m into the index at ref, in place of the same platform.
func addToIndex(ctx context.Context, c *Client, ref Ref, m ocispec.Descriptor) (ocispec.Descriptor, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	d, body, err := c.Manifest(ctx, ref)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return d, err
	case IsIndex(d.MediaType):
		if err := json.Unmarshal(body, &index); err != nil {
			return d, invalid("importing", ref, "the index that is there: %v", err)
		}
		index.MediaType = ocispec.MediaTypeImageIndex
	}
	same := platforms.OnlyStrict(*m.Platform)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
		return o.Platform != nil && same.Match(*o.Platform)
	})
	index.Manifests = append(index.Manifests, m)
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return strings.Compare(formatPlatform(a.Platform), formatPlatform(b.Platform))
	})
	out, err := json.Marshal(index)
	if err != nil {
		return d, err
	}
	return c.PutManifest(ctx, ref, index.MediaType, out)
}

func formatPlatform(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	return platforms.FormatAll(*p)
}
