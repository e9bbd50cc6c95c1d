#!/usr/bin/env bash
# Fuzzes every target for so long each, as many at a time as there are processors: fuzz.sh TIME [PATTERN]
#
# Targets are found in the sources. An input that makes one fail is left in the package's testdata/fuzz, where every
# later `go test` tries it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

time=${1:?"how long? fuzz.sh 60s"} pattern=${2:-.}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

targets() { # PACKAGE TARGET
	grep -rno --include='*_test.go' -E '^func Fuzz[A-Za-z0-9_]+' . | sed -nE 's|^(.*)/[^/]+:[0-9]+:func (Fuzz.*)$|\1 \2|p' | sort -u | grep -E -- "$pattern"
}

# Now and then `go test` ends at the end of its time with "context deadline exceeded" and exit status 1 although no
# input has failed; of one that has, or that hangs, it says where it was written.
onlyLate() { # LOG
	grep -qx ' *context deadline exceeded' "$1" && ! grep -qE 'Failing input|panic|hung or terminated' "$1"
}

one() { # PACKAGE TARGET
	local log=$logs/${1//\//_}.$2 started=$SECONDS
	if go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x -parallel 1 -timeout 0 "$1" >"$log" 2>&1 || onlyLate "$log"; then
		printf 'ok     %4d s  %10s inputs  %s %s\n' $((SECONDS - started)) "$(sed -nE 's/.*execs: ([0-9]+).*/\1/p' "$log" | tail -1)" "$1" "$2"
		return 0
	fi
	printf 'FAILED %4d s  %s %s\n' $((SECONDS - started)) "$1" "$2"
	tail -n 60 "$log" | sed 's/^/    /'
	return 1
}
export -f one onlyLate
export logs time

count=$(targets | wc -l)
[ "$count" -gt 0 ] || { echo "fuzz.sh: no target matches $pattern" >&2; exit 1; }
echo "$count targets, $time each"
targets | xargs -P "$(nproc)" -L 1 bash -c 'one "$@"' fuzz || exit 1
