#!/bin/sh
# Builds the runc that travels inside the binary, for the machine's own
# architecture, into internal/buildkit/runcbin/runc-linux-ARCH.zst.
#
# runc needs cgo for its first steps in a new namespace (nsenter), so it is a
# program of its own and not linked in; it is linked statically so that it runs
# on any distribution. Needs a C compiler, the static library of libseccomp
# (Debian: libseccomp-dev) and zstd. The version is the one in go.mod.
#
# Tags: seccomp, because BuildKit gives every RUN step a profile and a runc
# without it refuses to start; netgo and osusergo keep glibc's resolver out of a
# static binary; urfave_cli_no_docs leaves a Markdown writer out.
#
# Then build with: CGO_ENABLED=0 go build -tags embedrunc ./cmd/strata
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
arch=$(go env GOHOSTARCH)
out=$root/internal/buildkit/runcbin/runc-linux-$arch.zst
version=$(cd "$root" && go list -m -f '{{.Version}}' github.com/opencontainers/runc)
stamp=$out.version

if [ -f "$out" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version" ]; then
	exit 0
fi

for tool in cc zstd; do
	command -v $tool >/dev/null || {
		echo "strata: error: building runc: $tool is not installed" >&2
		echo "strata: hint: apt-get install gcc libc6-dev libseccomp-dev zstd" >&2
		exit 1
	}
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT INT TERM
cd "$root"
CGO_ENABLED=1 go build -trimpath \
	-tags 'seccomp urfave_cli_no_docs netgo osusergo' \
	-ldflags "-s -w -extldflags -static -X main.version=${version#v}" \
	-o "$tmp/runc" github.com/opencontainers/runc
"$tmp/runc" --version >&2
mkdir -p "$(dirname "$out")"
zstd -q -19 -f "$tmp/runc" -o "$tmp/runc.zst"
mv "$tmp/runc.zst" "$out"
echo "$version" >"$stamp"
