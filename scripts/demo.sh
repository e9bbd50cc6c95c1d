#!/usr/bin/env bash
# Shows what Strata does, on two real projects: builds them from nothing, changes one line, builds again. Everything
# happens in a temporary folder with a store of its own, which is removed at the end; only the bootstrapped base images
# are kept for the next time (scripts/bases.sh).
#
#   STRATA=PROGRAM    show this one in place of bin/strata
#   STRATA_DEMO=DIR   use this folder and keep it: look around in it, or run the demo again on a warm store
set -euo pipefail
. "$(dirname "$0")/lib.sh"

strata=${STRATA:-$ROOT/bin/strata}
[ -x "$strata" ] || die "starting the demo: $strata is not there" "make demo builds it first"
[ "$(id -u)" = 0 ] || exec sudo --preserve-env=PATH,HOME,STRATA,STRATA_DEMO,STRATA_CACHE,XDG_CACHE_HOME "$0" "$@"

folder=${STRATA_DEMO:-$(mktemp -d -t strata-demo.XXXXXX)}
mkdir -p "$folder"
clean() {
	local status=$?
	[ -n "${STRATA_DEMO:-}" ] || rm -rf "$folder"
	if [ $status = 0 ]; then return; fi
	printf '\nThe demo ended early (status %s) after: %s\n' "$status" "${doing:-its start}" >&2
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export STRATA_HOME=$folder/home
summary=()

# milliseconds prints the time since an unknown moment.
milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }

# run COMMAND... shows a command as one would type it, runs it, and says how long it took; the time is left in $took.
run() {
	local started
	doing=$*
	[ "$1" != logged ] || doing=${doing#logged }
	printf '\n%s$ %s%s\n' "$BOLD" "${doing/#$strata/strata}" "$PLAIN" >&2
	started=$(milliseconds)
	"$@"
	took=$(($(milliseconds) - started))
	printf '%s(%d.%02d s)%s\n' "$BOLD" $((took / 1000)) $((took % 1000 / 10)) "$PLAIN" >&2
}

# build runs `strata build`. On a terminal it draws its own progress; in a log, what apt and npm print is left out (it is
# kept until the demo ends, and shown if the build fails).
build() {
	if [ -t 2 ]; then run "$strata" build; else run logged "$strata" build --progress plain; fi
}

logged() {
	local log=$folder/build.log
	if ! "$@" 2>&1 | tee "$log" | sed -u '/ | \[/d; / | exporting/d'; then
		printf '\nthe end of the complete log:\n' >&2
		tail -n 80 "$log" >&2
		return 1
	fi
}

note() { summary+=("$(printf '%-58s %4d.%02d s' "$1" $((took / 1000)) $((took % 1000 / 10)))"); }

# checkout NAME makes a repository of an example, as a user would have it.
checkout() {
	rm -rf "${folder:?}/$1"
	cp -r "$ROOT/examples/$1" "$folder/$1"
	cd "$folder/$1"
	git init -q -b main
	commit "The project as it is"
	git tag v1.0.0
}

commit() {
	git add -A
	git -c user.name=demo -c user.email=demo@localhost commit -q -m "$1"
}

# change FILE SED-EXPRESSION edits a file, shows the edit and commits it; an edit that changes nothing is an error.
change() {
	sed -i "$2" "$1"
	git --no-pager diff --unified=0 --no-color -- "$1" | sed -n '/^@@/,$p' >&2
	if git diff --quiet; then die "changing $1: nothing in it matches $2" "the example has changed: change scripts/demo.sh too"; fi
	commit "Change $1"
}

# fast LIMIT ends the demo when the last command took longer than so many seconds.
fast() {
	[ "$took" -lt $(($1 * 1000)) ] || die "$doing: took $took ms, which is not under $1 s" "is the machine busy?"
}

begun=$(milliseconds)
title "1. The base images, bootstrapped from Debian's packages into the embedded registry"
run "$ROOT/scripts/bases.sh" --import "$strata"
note "base images, bootstrapped or from the cache, imported"

title "2. ragex: base -> ml -> app, cpu for two platforms and cuda"
checkout ragex
run "$strata" plan
build
note "ragex, first build: nine images, two of them emulated"
run "$strata" tags
run "$strata" run app/cpu/linux/amd64 -- python3 -m src.server --query "how are failed requests retried?"
run "$strata" run app/cpu/linux/arm64 -- python3 -m src.server --selftest

title "3. Nothing has changed"
run "$strata" plan
build
note "ragex, nothing changed"

title "4. One line of code has changed"
change src/server.py 's/Searches code by meaning and by text\./Finds code by what it means and by what it says./'
run "$strata" plan
run "$strata" explain app/cpu/linux/amd64
build
note "ragex, one line of code changed: three images"
fast 10
run "$strata" run app/cpu/linux/amd64 -- python3 -m src.server --help

title "5. graphrag: one Dockerfile, five stages, dev and prod"
checkout graphrag
run "$strata" graph
build
note "graphrag, first build"
run "$strata" run prod -- node dist/main.js --selftest

title "6. One line of code has changed"
change src/main.ts 's/the parameter q is missing/say what you want to know: \/ask?q=.../'
run "$strata" plan
build
note "graphrag, one line of code changed"
fast 10
run "$strata" run prod -- node dist/main.js --query "why do tides follow the moon?"

took=$(($(milliseconds) - begun))
note "the whole demo"
title "Summary"
printf '%s\n' "${summary[@]}"
