//go:build embedrunc

package buildkit

import _ "embed"

// runcZstd is the static runc that scripts/runc.sh builds, compressed.
//
//go:embed runcbin/runc-linux-arm64.zst
var runcZstd []byte
