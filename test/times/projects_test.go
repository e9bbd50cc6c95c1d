//go:build linux

package times

import "testing"

// compile is a build as make, cargo and ninja do it: an object is made where it
// is missing or its source is newer. $s is the source, $o the object.
const compile = `if [ ! -e $o ] || [ $s -nt $o ]; then cp $s $o; touch $o; fi; cp $o `

// cacheDockerfile compiles in a cache mount; NAME is the project's.
func cacheDockerfile(id string) string {
	return "FROM busybox:1\nWORKDIR /src\nCOPY src/ .\n" +
		"RUN --mount=type=cache,target=/obj,id=" + id + " s=main.c o=/obj/main.o; " + compile + "/seen-app\n"
}

// three are a source's three releases.
const three = "-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- @3 src/main.c --\nv3\n"

// parentYAML is a parent and a child.
const parentYAML = "layers:\n  base: {dockerfile: Dockerfile.base}\n  app: {parent: base}\n"

var parentUnits = []unit{{name: "base", dockerfile: "Dockerfile.base"}, {name: "app", parent: "base"}}

const child = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"

// newer writes what a RUN sees of pairs of files: one word each.
const newer = `n() { [ $1 -nt $2 ] && echo "$1 is newer than $2"; [ $2 -nt $1 ] && echo "$2 is newer than $1"; true; }; `

var projects = []project{
	// One unit, one release: what is newer than what.
	{name: "run-order", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN sleep 1.1; cp /f /g\nRUN sleep 1.1; echo >/h\n" +
		"RUN " + newer + "{ n /f /g; n /g /h; n /h /bin/busybox; } >/seen\n"},
	{name: "derive", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN sleep 1.1; tr 1 2 </f >/derived\nRUN [ /derived -nt /f ] && echo up to date >/seen\n"},
	{name: "copy-chmod", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY --chmod=600 f /f\nRUN sleep 1.1; cat /f >/g\nRUN " + newer + "n /f /g >/seen\n"},
	{name: "copy-chown", files: "-- d/f --\n1\n-- d/g --\n2\n-- Dockerfile --\nFROM busybox:1\nCOPY --chown=1000:1000 d /d\nUSER 1000\nRUN sleep 1.1; cat /d/f /d/g >/tmp/all\nRUN find /d /tmp/all -type f -newer /d/f | sort >/tmp/seen\n"},
	{name: "add-file", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nADD f /in/\nRUN sleep 1.1; cat /in/f >/out\nRUN find /in /out -type f -newer /in/f >/seen\n"},
	{name: "add-archive", files: "-- !do --\nmkdir t; echo old >t/old; echo new >t/new; touch -d 2015-05-05T05:05:05Z t/old; touch -d 2019-09-09T09:09:09Z t/new; tar -cf t.tar -C t old new; rm -r t\n" +
		"-- Dockerfile --\nFROM busybox:1\nADD t.tar /t/\nRUN cat /t/* >/out\nRUN { find /t /out -type f -newer /t/old | sort; stat -c '%n %Y' /t/old /t/new; } >/seen\n"},
	{name: "add-archive-gz", files: "-- !do --\nmkdir -p t/d; echo 1 >t/d/a; ln -s a t/d/link; touch -h -d 2001-01-01T00:00:00Z t/d/a t/d/link; tar -czf t.tgz t; rm -r t\n" +
		"-- Dockerfile --\nFROM busybox:1\nWORKDIR /x\nADD t.tgz .\nRUN sleep 1.1; cp -p t/d/a t/d/b; cat t/d/a >t/d/c\nRUN find /x -newer t/d/b | sort >/seen\n"},
	{name: "add-archive-1970", files: "-- !do --\necho 1 >a; tar --mtime=@0 -cf t.tar a; rm a\n-- Dockerfile --\nFROM busybox:1\nADD t.tar /t/\nRUN cat /t/a >/out; stat -c %Y /t/a >/seen\n"},
	{name: "heredoc-copy", files: "-- Dockerfile --\nFROM busybox:1\nCOPY <<EOF /conf\nNAME=1\nEOF\nRUN sleep 1.1; cat /conf >/derived\nRUN " + newer + "n /conf /derived >/seen\n"},
	{name: "heredoc-run", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN <<EOF\nsleep 1.1\ncat /f >/a\nEOF\nRUN <<EOF\n[ /a -nt /f ] && echo a is newer >/seen\nEOF\n"},
	{name: "workdir", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nWORKDIR /a/b\nCOPY f .\nRUN sleep 1.1; cat f >g\nWORKDIR /a/c\nRUN [ ../b/g -nt ../b/f ] && echo yes >/seen\n"},
	{name: "stage", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1 AS build\nCOPY f /in/f\nRUN sleep 1.1; mkdir /out; cat /in/f >/out/f.o\nFROM busybox:1\nCOPY --from=build /in /in\nCOPY --from=build /out /out\n" +
		"RUN [ /out/f.o -nt /in/f ] && echo up to date >/seen; sleep 1.1; echo >/last\n"},
	{name: "stage-one-copy", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1 AS build\nCOPY f /w/f\nRUN sleep 1.1; cat /w/f >/w/f.o; sleep 1.1; cat /w/f.o >/w/f.bin\nFROM busybox:1\nCOPY --from=build /w /w\n" +
		"RUN " + newer + "{ n /w/f /w/f.o; n /w/f.o /w/f.bin; } >/seen\n"},
	{name: "stage-parallel", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1 AS a\nRUN echo a >/a\nFROM busybox:1 AS b\nRUN sleep 1.1; echo b >/b\nFROM busybox:1\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY f /\nRUN sleep 1.1; cat /a /b /f >/all\nRUN find /a /b /f -newer /all >/seen\n"},
	{name: "copy-from-image", files: "-- Dockerfile --\nFROM busybox:1\nCOPY --from=busybox:1 /bin/busybox /b\nRUN echo 1 >/c\nRUN " + newer + "{ n /c /b; n /b /bin/busybox; } >/seen\n"},
	{name: "copy-link", files: "-- f --\nNAME\n-- Dockerfile --\nFROM busybox:1\nCOPY --link f /f\nRUN sleep 1.1; cat /f >/g\nRUN [ /g -nt /f ] && echo yes >/seen\n"},
	{name: "find-newer", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nRUN mkdir /w; echo 1 >/w/a; sleep 1.1; touch /w/stamp; sleep 1.1; echo 2 >/w/b\nCOPY f /w/f\nRUN sleep 1.1; echo 3 >/w/c; find /w/a /w/b /w/c -newer /w/stamp | sort >/seen\n"},
	{name: "touch-d", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/a; touch -d '2015-05-05 05:05:05' /a; echo 2 >/b; touch -d '2012-12-12 12:12:12' /b\nRUN cat /a /b >/c\nRUN { find /a /b /c -newer /b | sort; stat -c %Y /a /b; } >/seen\n"},
	{name: "touch-later", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN sleep 1.1; cat /f >/f.o\nRUN sleep 1.1; touch /f\nRUN [ /f -nt /f.o ] && echo stale >/seen\n"},
	{name: "touch-reference", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN sleep 1.1; cat /f >/g; touch -r /f /g; sleep 1.1; echo >/h\nRUN " + newer + "{ n /f /g; n /g /h; } >/seen\n"},
	{name: "tar-in-run", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /w/f\nRUN sleep 1.1; cat /w/f >/w/g\nRUN tar -cf /tmp/w.tar -C /w .; mkdir /v; tar -xf /tmp/w.tar -C /v; rm /tmp/w.tar\nRUN " + newer + "{ n /v/f /v/g; } >/seen\n"},
	{name: "chmod-later", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo a >/a\nRUN sleep 1.1; echo b >/b\nRUN sleep 1.1; chmod 600 /a; echo c >/c\nRUN " + newer + "{ n /a /b; n /a /c; } >/seen\n"},
	{name: "chown-later", files: "-- Dockerfile --\nFROM busybox:1\nRUN mkdir /d; echo a >/d/a\nRUN sleep 1.1; cat /d/a >/d/b\nRUN chown -R some:some /d\nRUN " + newer + "n /d/a /d/b >/seen\n"},
	{name: "mv-later", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo a >/a\nRUN sleep 1.1; cat /a >/b\nRUN sleep 1.1; mv /a /a2; echo c >/c\nRUN " + newer + "{ n /a2 /b; n /a2 /c; } >/seen\n"},
	{name: "cp-p-later", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN echo a >/a\nRUN sleep 1.1; cat /a /f >/b\nRUN cp -p /a /a2; cp -p /f /f2; cp /a /a3\nRUN " + newer + "{ n /a2 /b; n /f2 /b; } >/seen\n"},
	{name: "chmod-copied", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN sleep 1.1; cat /f >/g\nRUN chmod 600 /f; chown some /f\nRUN " + newer + "n /f /g >/seen\n"},
	{name: "links", files: "-- d/f --\n1\n-- !do --\nln -s f d/link\n-- Dockerfile --\nFROM busybox:1\nCOPY d /d\nRUN sleep 1.1; ln -s /d/f /soft; ln /d/f /hard; cat /d/f >/g\nRUN sleep 1.1; chmod 600 /hard\nRUN " + newer + "{ n /g /hard; n /g /d/link; } >/seen\n"},
	{name: "replaced", files: "-- a --\na\n-- b --\nb\n-- Dockerfile --\nFROM busybox:1\nCOPY a /x\nRUN sleep 1.1; cat /x >/y\nCOPY b /x\nRUN sleep 1.1; rm /y; cat /x >/y\nRUN " + newer + "n /x /y >/seen\n"},
	{name: "folders", files: "-- .dockerignore --\nDockerfile*\nstrata.yaml\n-- a/b/c --\n1\n-- a/d --\n2\n-- e --\n3\n-- Dockerfile --\nFROM busybox:1\nWORKDIR /src\nCOPY . .\nRUN sleep 1.1; find . -type f | sort >/list\nRUN find /src -type f -newer /list >/seen\n"},
	{name: "old-on-disk", files: "-- f --\n1\n-- !do --\ntouch -d 2012-12-12T12:12:12Z f\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN { stat -c %Y /f; find /f -newer /bin/busybox; } >/seen; cat /f >/g\n"},
	{name: "recorded", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN stat -c '%n %Y' /f >/recorded\n"},
	{name: "recorded-made", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/a\nRUN stat -c '%n %Y' /a >/recorded\nRUN [ $(stat -c %Y /a) = $(cut -d ' ' -f 2 /recorded) ] && echo the same >/seen\n"},
	{name: "fingerprint", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nRUN mkdir /d; echo 1 >/d/a\nRUN stat -c '%n %Y' /d/a >/recorded; sleep 1.1; chmod 644 /d\nRUN read n t </recorded; [ $(stat -c %Y $n) = $t ] && echo valid >/seen\nCOPY f /f\n"},

	// Several releases: what is copied, appended, kept.
	{name: "append", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY src /src/\n" + three, steps: map[string]string{"app": "append"}},
	// The tail copies once more what a RUN has compiled: it is the same file.
	{name: "copied-twice", files: "-- Dockerfile --\nFROM busybox:1\nCOPY src /w/src\nRUN sleep 1.1; cp /w/src/main.c /w/main.o\nCOPY src /w/src\n" + three},
	{name: "copied-twice-git", git: true, files: "-- Dockerfile --\nFROM busybox:1\nCOPY src /w/src\nRUN sleep 1.1; cp /w/src/main.c /w/main.o\nCOPY src /w/src\n" + three},
	{name: "append-one-of-three", files: "-- a --\na1\n-- b --\nb1\n-- c --\nc1\n-- @2 b --\nb2\n-- @3 c --\nc3\n-- Dockerfile --\nFROM busybox:1\nRUN sleep 1.1; echo 1 >/made\nCOPY a b c /src/\n",
		steps: map[string]string{"app": "append"}},
	{name: "append-chmod", git: true, files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY --chmod=640 --chown=some src /src/\n" + three, steps: map[string]string{"app": "append"}},
	{name: "append-from-stage", files: "-- Dockerfile --\nFROM busybox:1 AS build\nRUN mkdir /out; echo 1 >/out/tool\nFROM busybox:1\nCOPY --from=build /out /out\nCOPY src /src/\n" + three, steps: map[string]string{"app": "append"}},
	{name: "append-heredoc", files: "-- f --\n1\n-- @2 Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY <<EOF /conf\nNAME=2\nEOF\n-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY <<EOF /conf\nNAME=1\nEOF\n"},
	{name: "append-same-size", git: true, files: "-- Dockerfile --\nFROM busybox:1\nCOPY dist /srv/\n-- dist/index.html --\n<script src=a1.js>\n-- dist/other.html --\nsame\n-- @2 dist/index.html --\n<script src=b2.js>\n-- @3 dist/index.html --\n<script src=c3.js>\n"},
	{name: "made-same-size", files: "-- Dockerfile --\nFROM busybox:1\nCOPY src /src/\nRUN sed s/v/page/ /src/main.c >/page.html\n" + three},
	{name: "stage-same-size", files: "-- Dockerfile --\nFROM busybox:1 AS build\nCOPY src /src/\nRUN mkdir /dist; sed s/v/page/ /src/main.c >/dist/page.html\nFROM busybox:1\nCOPY --from=build /dist /srv\n" + three},
	{name: "touched-only", files: "-- src/f --\n1\n-- @2 !do --\ntouch src/f\n-- Dockerfile --\nFROM busybox:1\nCOPY src /src/\nRUN sleep 1.1; cat /src/f >/g\nRUN [ /src/f -nt /g ] && echo stale >/seen; true\n", steps: map[string]string{"app": "reuse"}},
	{name: "reverted", git: true, files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY src /src/\n-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- @3 src/main.c --\nv1\n"},
	{name: "removed-and-back", files: "-- Dockerfile --\nFROM busybox:1\nCOPY src /src/\nRUN sleep 1.1; ls /src >/seen-list\n-- src/a --\na\n-- src/b --\nb\n-- @2 -src/b --\n-- @3 src/b --\nb\n"},
	{name: "setting-only", files: "-- f --\n1\n-- Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN cat /f >/g\nENV A=1\n-- @2 Dockerfile --\nFROM busybox:1\nCOPY f /f\nRUN cat /f >/g\nENV A=2\n"},
	{name: "edited-after-run", files: "-- Dockerfile --\nFROM busybox:1\nRUN echo 1 >/made\nCOPY src /src/\nRUN [ /src/main.c -nt /made ] && echo newer >/seen; true\n-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n"},
	{name: "west", files: "-- Dockerfile --\nFROM busybox:1\nENV TZ=PST8\nCOPY src /src/\nRUN echo 1 >/made; date -r /made +%Y >/seen; date -r /src/main.c +%Y >>/seen\n" + three},

	// A cache mount with objects in it, compiled where the source is newer.
	{name: "cache-one", cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("one") + three},
	{name: "cache-git", git: true, cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("git") + three},
	{name: "cache-git-past", git: true, cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("past") + three +
		"-- !date --\n2001-01-01T00:00:00Z\n-- @2 !date --\n2002-01-01T00:00:00Z\n-- @3 !date --\n2003-01-01T00:00:00Z\n"},
	{name: "cache-git-backwards", git: true, cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("backwards") + three +
		"-- !date --\n2023-01-01T00:00:00Z\n-- @2 !date --\n2022-01-01T00:00:00Z\n-- @3 !date --\n2021-01-01T00:00:00Z\n"},
	{name: "cache-git-same-second", git: true, cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("same-second") + three +
		"-- !date --\n2022-02-02T02:02:02Z\n-- @2 !date --\n2022-02-02T02:02:02Z\n-- @3 !date --\n2022-02-02T02:02:02Z\n"},
	// v2 is on a branch that was committed before v1 is built, and checked out after.
	{name: "cache-branch", git: true, cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("branch") +
		"-- src/main.c --\nv1\n-- !do --\ngit add -A; git commit -qm v1; git checkout -qb two; echo v2 >src/main.c; git commit -qam v2; git checkout -q main; sleep 1.1; touch src/main.c\n" +
		"-- @2 !do --\ngit checkout -q two\n-- @3 !do --\ngit checkout -q main\n"},
	{name: "cache-reverted", cached: true, files: "-- Dockerfile --\n" + cacheDockerfile("reverted") + "-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- @3 src/main.c --\nv1\n"},
	{name: "cache-variants", cached: true, yaml: "variants:\n  cpu: {args: {V: cpu}}\n  cuda: {args: {V: cuda}}\nlayers: {app: {}}\n",
		units: []unit{{name: "app/cpu", args: map[string]string{"V": "cpu"}}, {name: "app/cuda", args: map[string]string{"V": "cuda"}}},
		files: "-- Dockerfile --\nFROM busybox:1\nWORKDIR /src\nCOPY src/ .\nARG V\nRUN --mount=type=cache,target=/obj,id=variants mkdir -p /obj/$V; s=main.c o=/obj/$V/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-child", cached: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nWORKDIR /src\nCOPY src/ .\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=child s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-both", cached: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\n" + cacheDockerfile("both") + "-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=both-child s=/seen-app o=/obj/app; " + compile + "/seen-child\n" + three},
	{name: "cache-auto", cached: true, yaml: "layers: auto\n", units: []unit{{name: "source", target: "source"}, {name: "app", target: "app"}},
		files: "-- Dockerfile --\nFROM busybox:1 AS source\nWORKDIR /src\nCOPY src/ .\nFROM source AS app\nRUN --mount=type=cache,target=/obj,id=auto s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-auto-siblings", cached: true, yaml: "layers: auto\n", units: []unit{{name: "source", target: "source"}, {name: "one", target: "one"}, {name: "two", target: "two"}},
		files: "-- Dockerfile --\nFROM busybox:1 AS source\nWORKDIR /src\nCOPY src/ .\nFROM source AS one\nRUN --mount=type=cache,target=/obj,id=sib1 s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" +
			"FROM source AS two\nRUN --mount=type=cache,target=/obj,id=sib2 s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-week", cached: true, yaml: "layers: {app: {refresh: week}}\n", files: "-- Dockerfile --\n" + cacheDockerfile("week") + three},
	{name: "cache-week-child", git: true, cached: true, yaml: "layers:\n  base: {dockerfile: Dockerfile.base, refresh: week}\n  app: {parent: base}\n", units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nWORKDIR /src\nCOPY src/ .\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=week-child s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-week-turns", cached: true, yaml: "layers: {app: {refresh: week}}\n",
		files: "-- Dockerfile --\n" + cacheDockerfile("week-turns") + three + "-- !args --\n--time 2026-11-17T00:00:00Z\n-- @2 !args --\n--time 2026-11-20T00:00:00Z\n-- @3 !args --\n--time 2026-11-27T00:00:00Z --refresh\n"},
	{name: "cache-made-source", cached: true, yaml: parentYAML + "args: {V: v1}\n",
		units: []unit{{name: "base", dockerfile: "Dockerfile.base", args: map[string]string{"V": "@v"}}, {name: "app", parent: "base"}},
		files: "-- Dockerfile.base --\nFROM busybox:1\nARG V\nRUN echo $V >/main.c\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=made s=/main.c o=/obj/main.o; " + compile + "/seen-app\n" +
			"-- v --\nv1\n-- @2 v --\nv2\n-- @3 v --\nv3\n-- @2 strata.yaml --\n" + parentYAML + "args: {V: v2}\n-- @3 strata.yaml --\n" + parentYAML + "args: {V: v3}\n"},
	{name: "cache-bind", cached: true, files: "-- Dockerfile --\nFROM busybox:1\nRUN --mount=type=cache,target=/obj,id=bind --mount=type=bind,source=src,target=/src s=/src/main.c o=/obj/main.o; " + compile + "/seen-app\n" + three},
	{name: "cache-stage", cached: true, files: "-- Dockerfile --\nFROM busybox:1 AS build\nCOPY src /src\nRUN --mount=type=cache,target=/obj,id=stage s=/src/main.c o=/obj/main.o; " + compile + "/app\nFROM busybox:1\nCOPY --from=build /app /seen-app\nRUN cat /seen-app >/copy\n" + three},
	{name: "cache-copied-object", cached: true, yaml: parentYAML, units: parentUnits, // the object comes from the parent, the source from the context
		files: "-- Dockerfile.base --\nFROM busybox:1\nRUN echo v0 >/main.o\n-- Dockerfile --\n" + child + "COPY src/main.c /main.c\nRUN s=/main.c o=/main.o; " + compile + "/seen-app\n" + three},

	// Layers.
	{name: "chain", yaml: "layers:\n  base: {dockerfile: Dockerfile.base}\n  mid: {parent: base, dockerfile: Dockerfile.mid}\n  app: {parent: mid}\n",
		units: []unit{{name: "base", dockerfile: "Dockerfile.base"}, {name: "mid", dockerfile: "Dockerfile.mid", parent: "base"}, {name: "app", parent: "mid"}},
		files: "-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- Dockerfile.base --\nFROM busybox:1\nRUN echo 1 >/a\n-- Dockerfile.mid --\n" + child + "COPY src /src\nRUN sleep 1.1; cat /a /src/main.c >/b\n" +
			"-- Dockerfile --\n" + child + "RUN sleep 1.1; cat /b >/c; " + newer + "{ n /a /b; n /src/main.c /b; } >/seen\n"},
	{name: "siblings", yaml: "layers:\n  base: {dockerfile: Dockerfile.base}\n  one: {parent: base}\n  two: {parent: base}\n",
		units: []unit{{name: "base", dockerfile: "Dockerfile.base"}, {name: "one", parent: "base"}, {name: "two", parent: "base"}},
		files: "-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN sleep 1.1; cat /src/main.c >/a\n-- Dockerfile --\n" + child + "RUN sleep 1.1; cat /a >/b; " + newer + "n /a /src/main.c >/seen\n"},
	{name: "child-appends", yaml: parentYAML, units: parentUnits, steps: map[string]string{"app": "append", "base": "reuse"},
		files: "-- Dockerfile.base --\nFROM busybox:1\nRUN echo 1 >/a\n-- Dockerfile --\n" + child + "COPY src /src/\n" + three},
	{name: "child-of-edited", yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nRUN echo 1 >/a\nCOPY src /src/\n-- Dockerfile --\n" + child + "RUN sleep 1.1; cat /src/main.c >/b\nRUN " + newer + "{ n /a /b; n /src/main.c /b; } >/seen\n" + three},
	{name: "child-chmods", yaml: parentYAML, units: parentUnits,
		files: "-- src/main.c --\nv1\n-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN sleep 1.1; cat /src/main.c >/a; sleep 1.1; cat /a >/b\n-- Dockerfile --\n" + child + "RUN chmod 600 /a /src/main.c\nRUN " + newer + "{ n /a /b; n /src/main.c /a; } >/seen\n"},
	{name: "rebase", yaml: "layers:\n  base: {dockerfile: Dockerfile.base}\n  app: {parent: base, on-parent-change: rebase}\n", units: parentUnits, steps: map[string]string{"app": "rebase"},
		files: "-- lib --\n1\n-- @2 lib --\n2\n-- Dockerfile.base --\nFROM busybox:1\nCOPY lib /lib/lib\nRUN sleep 1.1; cat /lib/lib >/lib/lib.o\n-- Dockerfile --\n" + child + "RUN sleep 1.1; mkdir /w; echo 1 >/w/a\nCOPY f /w/f\n-- f --\nf1\n"},
	{name: "rebase-and-append", git: true, yaml: "layers:\n  base: {dockerfile: Dockerfile.base}\n  app: {parent: base, on-parent-change: rebase-or-rebuild}\n", units: parentUnits, steps: map[string]string{"app": "rebase"},
		files: "-- lib --\n1\n-- @2 lib --\n2\n-- Dockerfile.base --\nFROM busybox:1\nCOPY lib /lib/lib\n-- Dockerfile --\n" + child + "RUN sleep 1.1; mkdir /w; echo 1 >/w/a\nCOPY f /w/f\n-- f --\nf1\n-- @2 f --\nf2\n"},
	{name: "cutoff", yaml: parentYAML, units: parentUnits, steps: map[string]string{"base": "build", "app": "reuse"},
		files: "-- f --\n1\n-- Dockerfile.base --\nFROM busybox:1\nCOPY f /f\nRUN cat /f >/a\n-- @2 Dockerfile.base --\nFROM busybox:1\nCOPY f /f\nRUN cat /f | cat >/a\n-- Dockerfile --\n" + child + "RUN sleep 1.1; cat /a >/b\nRUN " + newer + "n /a /b >/seen\n"},
	{name: "cutoff-then-change", cached: true, yaml: parentYAML, units: parentUnits,
		files: "-- Dockerfile.base --\nFROM busybox:1\nCOPY src /src\nRUN sed s/-.*// /src/main.c >/a\n-- Dockerfile --\n" + child + "RUN --mount=type=cache,target=/obj,id=cutoff s=/a o=/obj/a.o; " + compile + "/seen-app\n" +
			"-- src/main.c --\nv1-a\n-- @2 src/main.c --\nv1-b\n-- @3 src/main.c --\nv2-c\n"},
	{name: "variants-of-parent", yaml: "variants: {cpu: {args: {V: cpu}}, cuda: {args: {V: cuda}}}\n" + parentYAML,
		units: []unit{{name: "base/cpu", dockerfile: "Dockerfile.base", args: map[string]string{"V": "cpu"}}, {name: "base/cuda", dockerfile: "Dockerfile.base", args: map[string]string{"V": "cuda"}},
			{name: "app/cpu", parent: "base/cpu"}, {name: "app/cuda", parent: "base/cuda"}},
		files: "-- src/main.c --\nv1\n-- @2 src/main.c --\nv2\n-- Dockerfile.base --\nFROM busybox:1\nARG V\nCOPY src /src\nRUN sleep 1.1; cat /src/main.c >/a; echo $V >>/a\n-- Dockerfile --\n" + child + "RUN " + newer + "n /a /src/main.c >/seen\n"},
}

func TestProjects(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for i := range projects {
		p := &projects[i]
		if names[p.name] {
			t.Fatalf("two projects are called %s", p.name)
		}
		names[p.name] = true
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			p.run(t, w, w.take(t))
		})
	}
}
