# What the scripts share. Sourced by bash, never run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # the scripts that source this one use both
{
	ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
	CACHE=${STRATA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/strata}
}

if [ -t 2 ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD='' PLAIN=''; fi

say() { printf '%s\n' "$*" >&2; }
title() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }

# die MESSAGE HINT ends the script as the program itself would.
die() {
	printf 'strata: error: %s\nstrata: hint: %s\n' "$1" "$2" >&2
	exit 1
}

# as_root COMMAND... runs a command as root, by sudo where we are not.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		command -v sudo >/dev/null || die "running $1: this needs root, and sudo is not installed" "run it as root"
		sudo "$@"
	fi
}

# native prints this machine's architecture as Debian calls it.
native() {
	case $(uname -m) in
	x86_64) echo amd64 ;;
	aarch64) echo arm64 ;;
	*) die "looking at the machine: $(uname -m) is not supported" "amd64 and arm64 are" ;;
	esac
}

# emulator ARCH prints qemu's name for an architecture.
emulator() { case $1 in amd64) echo qemu-x86_64 ;; arm64) echo qemu-aarch64 ;; esac; }

# register ARCH makes the kernel run programs of a foreign architecture. Installing qemu-user-static does it where systemd
# runs; in a container nothing does. The package's own registration is used: its F flag lets the kernel open the emulator
# once and for all, so that it works in a chroot and in a container as well.
register() {
	local name misc=/proc/sys/fs/binfmt_misc
	[ "$1" = "$(native)" ] && return
	name=$(emulator "$1")
	if [ ! -e $misc/register ]; then
		say "mounting $misc"
		as_root modprobe -q binfmt_misc 2>/dev/null || true
		as_root mount -t binfmt_misc binfmt_misc $misc ||
			die "mounting $misc: the kernel has no binfmt_misc, or this container may not use it" \
				"run it on a machine or in a privileged container, or build for $(native) alone"
	fi
	if grep -qs '^flags:.*F' $misc/"$name"; then return; fi
	[ -r /usr/lib/binfmt.d/"$name".conf ] ||
		die "registering $name: /usr/lib/binfmt.d/$name.conf is missing" "apt-get install qemu-user-static"
	say "registering $name with the kernel, to run $1 programs"
	if [ -e $misc/"$name" ]; then echo -1 | as_root tee $misc/"$name" >/dev/null; fi
	as_root tee $misc/register </usr/lib/binfmt.d/"$name".conf >/dev/null
}
