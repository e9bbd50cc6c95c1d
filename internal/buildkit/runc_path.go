//go:build !embedrunc || !linux || (!amd64 && !arm64)

package buildkit

// runcZstd is empty: this binary was built without a runc inside.
var runcZstd []byte
