#!/usr/bin/env bash
# Installs what building, testing and the demo need beyond Go, git and make: nothing where all of it is there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# What is looked for, and the Debian package that has it: a command, or a file.
needs=(
	"gcc gcc"                                    # runc's first steps are in C
	"/usr/include/string.h libc6-dev"
	"/usr/include/seccomp.h libseccomp-dev"      # with the static library that runc is linked with
	"pkg-config pkg-config"                      # finds libseccomp for the one package of runc that is linked with it
	"zstd zstd"                                  # packs runc into the binary
	"git git"
	"mmdebstrap mmdebstrap"                      # bootstraps the base images
	"arch-test arch-test"                        # tells mmdebstrap what the machine can run
	"/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring"
	"$(emulator arm64)-static qemu-user-static"  # runs the programs of the other architecture
	"ip iproute2"                                # network namespaces of the tests
	"mount mount"
	"/usr/sbin/update-ca-certificates ca-certificates"
)

missing=()
for need in "${needs[@]}"; do
	read -r what package <<<"$need"
	case $what in
	/*) [ -e "$what" ] || { [[ $what == /usr/include/* ]] && compgen -G "/usr/include/*-linux-gnu/${what##*/}" >/dev/null; } || missing+=("$package") ;;
	*) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("$package") ;;
	esac
done

if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null ||
		die "installing ${missing[*]}: there is no apt-get on this machine" "install them as your system does, then start again"
	say "installing with apt-get: ${missing[*]}"
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v go >/dev/null || die "looking for Go: it is not installed" "install Go $(sed -n 's/^go //p' "$ROOT/go.mod") or later"

for arch in amd64 arm64; do register $arch; done
