#!/usr/bin/env bash
# Bootstraps the images that the examples start from, out of Debian's packages, so that nothing has to be pulled:
#
#   debian:bookworm-slim     linux/amd64, linux/arm64
#   node:18-bookworm-slim    linux/amd64, with Debian's own Node 18 and npm
#
# Prints one line for each: TARFILE NAME PLATFORM. With --import STRATA it also puts them into that program's embedded
# registry under their names, where `FROM debian:bookworm-slim` is looked up first.
#
# The tars are kept in $STRATA_CACHE/bases (~/.cache/strata/bases) for a calendar week, or until this script or the
# machine's apt sources change. Needs root: mmdebstrap's other modes need what containers seldom have.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

import=
[ "${1:-}" = --import ] && import=${2:?--import needs the path of strata}
codename=bookworm

# sources prints "URI SUITE COMPONENTS..." for each binary source of this machine's apt, one suite a line.
sources() {
	local file
	for file in /etc/apt/sources.list.d/*.sources; do
		[ -r "$file" ] && awk '
			function flush(   u, s, i, j) {
				if (types ~ /(^| )deb( |$)/ && enabled !~ /no/)
					for (i = split(uris, u); i > 0; i--) for (j = split(suites, s); j > 0; j--) print u[i], s[j], components
				types = uris = suites = components = enabled = ""
			}
			/^#/ { next }
			/^[ \t]*$/ { flush(); next }
			{ key = tolower($1); sub(/^[^:]*:[ \t]*/, "") }
			key == "types:" { types = $0 }  key == "uris:" { uris = $0 }  key == "suites:" { suites = $0 }
			key == "components:" { components = $0 }  key == "enabled:" { enabled = $0 }
			END { flush() }' "$file"
	done
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -r "$file" ] && sed -n 's/^deb[ \t]\+\(\[[^]]*\][ \t]*\)\?//p' "$file"
	done
	true
}

# mirror SUFFIX prints the URI from which this machine gets its own release ("") or that release's security updates.
mirror() {
	local release uri
	release=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}")
	[ -n "$release" ] || return 0
	uri=$(sources | awk -v a="$release$1" -v b="stable$1" '($2 == a || $2 == b) && / main( |$)/ { print $1; exit }')
	# Debian's cloud images name a file that lists mirrors.
	case $uri in mirror+file:*) uri=$(awk '!/^#/ && NF { print $1; exit }' "/${uri#mirror+file:*/}") ;; esac
	echo "${uri%/}"
}

main=${STRATA_DEBIAN_MIRROR:-$(mirror '')}
security=${STRATA_DEBIAN_SECURITY_MIRROR:-$(mirror -security)}
[ -n "$main" ] || die "looking for a Debian mirror: this machine's apt sources name none" "set STRATA_DEBIAN_MIRROR to a mirror's URL"

# What the images' own apt will use: the mirrors of this machine, for the release of the images.
apt_sources() {
	local signed=/usr/share/keyrings/debian-archive-keyring.gpg
	printf 'Types: deb\nURIs: %s\nSuites: %s %s-updates\nComponents: main\nSigned-By: %s\n' "$main" $codename $codename $signed
	[ -z "$security" ] ||
		printf '\nTypes: deb\nURIs: %s\nSuites: %s-security\nComponents: main\nSigned-By: %s\n' "$security" $codename $signed
}

# Authorities that this machine trusts beyond Debian's: behind an inspecting proxy, npm inside the image must trust them too.
authorities=/usr/local/share/ca-certificates
own_authorities() { find $authorities -name '*.crt' -type f 2>/dev/null | LC_ALL=C sort; }

fingerprint() {
	{
		sed "/^while read/,\$d" "${BASH_SOURCE[0]}" # what comes after it makes nothing
		apt_sources
		own_authorities | xargs -r -d '\n' cat
	} | sha256sum | cut -c1-12
}

monday=$(date -u -d "$(date -u +%F) -$(($(date -u +%u) - 1)) days" +%s)
bases=$CACHE/bases
kept=$bases/$(date -u +%G-W%V)-$(fingerprint)
mkdir -p "$kept"
work=$(mktemp -d)
running=()
clean() {
	local pid
	for pid in "${running[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
	wait
	rm -rf "$work" "$kept"/*.new
}
trap clean EXIT
trap 'exit 130' INT TERM
exec 9>"$bases/lock"
flock 9 # two runs at once: the second one finds what the first has made
apt_sources >"$work/debian.sources"

# What the official slim images are like: no manuals, no translations, no daemons started by a package's scripts, and
# nothing that tells one run from another.
cat >"$work/finish" <<'FINISH'
#!/bin/sh
set -eu
root=$1
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/*
cp "$(dirname "$0")/debian.sources" "$root/etc/apt/sources.list.d/debian.sources"
chmod 644 "$root/etc/apt/sources.list.d/debian.sources"
mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/slim"
echo 'Acquire::Languages "none";' >"$root/etc/apt/apt.conf.d/slim"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
find "$root/var/log" -type f -delete
rm -rf "$root"/var/cache/ldconfig/aux-cache "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/etc/*- \
	"$root"/etc/hostname "$root"/etc/resolv.conf "$root"/etc/machine-id "$root"/root/.npm
FINISH

# The account of the official node image, and the authorities of this machine.
cat >"$work/node" <<'NODE'
#!/bin/sh
set -eu
root=$1
chroot "$root" groupadd --gid 1000 node
SOURCE_DATE_EPOCH=0 chroot "$root" useradd --uid 1000 --gid node --shell /bin/bash --create-home node
for file in "$(dirname "$0")"/authorities/*.crt; do
	[ -e "$file" ] || continue
	cp "$file" "$root/usr/local/share/ca-certificates/"
	chroot "$root" update-ca-certificates >/dev/null
done
NODE
chmod +x "$work/finish" "$work/node"
mkdir "$work/authorities"
own_authorities | xargs -r -d '\n' cp -t "$work/authorities"

# bootstrap TAR ARCH [OPTION...] makes one tar; it appears under its name only when it is complete. --variant=apt is
# what is essential, and apt. dpkg doesn't sync to disk, and unpacks no manuals, which halves the time under emulation.
bootstrap() {
	local tar=$1 arch=$2 started=$SECONDS log=$work/${1##*/}.log
	shift 2
	if [ -e "$tar" ]; then return; fi
	case "$main $security" in *https:*) set -- --include=ca-certificates "$@" ;; esac
	say "bootstrapping ${tar##*/}"
	if ! as_root env SOURCE_DATE_EPOCH="$monday" mmdebstrap --mode=root --variant=apt --architectures="$arch" \
		--format=tar \
		--dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/locale/locale.alias' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		"$@" --customize-hook="$work/finish" $codename "$tar.new" "$work/debian.sources" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "bootstrapping ${tar##*/}: mmdebstrap failed" "is a mirror reachable? apt-get update says more"
	fi
	mv "$tar.new" "$tar"
	say "bootstrapped ${tar##*/}: $(($(stat -c %s "$tar") / 1000000)) MB in $((SECONDS - started)) s"
}

[ "$(native)" = amd64 ] && foreign=arm64 || foreign=amd64
[ -e "$kept/debian-$foreign.tar" ] || register "$foreign"
# The emulated one takes as long as the others together: side by side on two cores, in a process group of its own so that
# all of it can be ended.
set -m
bootstrap "$kept/debian-$foreign.tar" "$foreign" &
running+=($!)
set +m
bootstrap "$kept/debian-$(native).tar" "$(native)"
bootstrap "$kept/node-amd64.tar" amd64 --include=nodejs,npm,ca-certificates --customize-hook="$work/node"
wait "${running[@]}"
running=()

# Earlier weeks and fingerprints; nothing else lies in this folder.
find "$bases" -mindepth 1 -maxdepth 1 -type d -name '*-W*' ! -path "$kept" -exec rm -rf {} +

while read -r tar name platform command; do
	if [ -n "$import" ]; then
		"$import" registry import "$kept/$tar" --as "$name" --platform "$platform" --cmd "$command" >&2
	fi
	echo "$kept/$tar $name $platform"
done <<END
debian-amd64.tar debian:bookworm-slim linux/amd64 bash
debian-arm64.tar debian:bookworm-slim linux/arm64 bash
node-amd64.tar node:18-bookworm-slim linux/amd64 node
END
