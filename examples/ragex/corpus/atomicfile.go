// Package atomicfile replaces files so that a crash leaves the old content or the new, never half of it.
package atomicfile

import (
	"os"
	"path/filepath"
)

// Write puts data into a temporary file beside path, syncs it to disk and renames it over path.
func Write(path string, data []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if err := temp.Chmod(mode); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
