package buildkit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/strata-build/strata/internal/diag"
)

// findRunc gives the path of the runc to use: the one that was asked for, the
// one in this binary (unpacked below root once), or the one on PATH.
func findRunc(asked, root string) (string, error) {
	if asked != "" {
		path, err := exec.LookPath(asked)
		if err != nil {
			return "", fmt.Errorf("finding runc %q: %w", asked, err)
		}
		return filepath.Abs(path)
	}
	if len(runcZstd) > 0 {
		return unpackRunc(filepath.Join(root, "bin"))
	}
	for _, name := range []string{"buildkit-runc", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", diag.Hint(errors.New("finding runc: there is none in this binary and none on PATH"),
		"install it (apt-get install runc), or build the binary with scripts/runc.sh and -tags embedrunc")
}

// unpackRunc writes the embedded runc below dir under a name with its hash, so
// that it happens once for each version. It needs no lock.
func unpackRunc(dir string) (string, error) {
	sum := sha256.Sum256(runcZstd)
	path := filepath.Join(dir, "runc-"+hex.EncodeToString(sum[:8]))
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := writeRunc(path); err != nil {
		return "", fmt.Errorf("unpacking %q: %w", path, err)
	}
	return path, nil
}

func writeRunc(path string) error {
	z, err := zstd.NewReader(bytes.NewReader(runcZstd))
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, z)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync() // a half-written runc under its final name would stay for ever
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// dropOldRuncs removes what other versions unpacked next to the runc at path.
// The lock must be held: an engine of another version may run its own.
func dropOldRuncs(root, path string) {
	found, _ := filepath.Glob(filepath.Join(root, "bin", "*"))
	for _, f := range found {
		if f != path {
			_ = os.Remove(f)
		}
	}
}
