//go:build linux

package buildkit

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/event"
)

// foreign gives a platform other than the machine's own.
func foreign() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func TestInterpreterTakes(t *testing.T) {
	const arm64 = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n" +
		"magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
	for _, tc := range []struct {
		name, entry, arch string
		want              bool
	}{
		{"its own", arm64, "arm64", true},
		{"another machine", arm64, "riscv64", false},
		{"another class", arm64, "arm", false},
		{"no F flag", strings.Replace(arm64, "POF", "PO", 1), "arm64", false},
		{"disabled", strings.Replace(arm64, "enabled", "disabled", 1), "arm64", false},
		{"by extension", "enabled\ninterpreter /usr/bin/x\nflags: F\nextension .x\n", "arm64", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := parseInterpreter([]byte(tc.entry)).takes(machines[tc.arch].header()); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A rule of our own must take the program that it was made for; escape's form
// is the kernel's.
func TestOwnRule(t *testing.T) {
	rule := machines["s390x"].ownRule("/usr/bin/qemu-s390x-static")
	want := `:qemu-s390x:M::\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:` +
		`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff:/usr/bin/qemu-s390x-static:OCF`
	if rule != want {
		t.Errorf("got  %s\nwant %s", rule, want)
	}
}

func TestFirstRule(t *testing.T) {
	here := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(here, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := "# a comment\n\n:a:M::x:y:/absent/qemu:F\n:b:M::x:y:" + here + ":O\n"
	if got, ok := firstRule(conf); !ok || got != ":b:M::x:y:"+here+":OF" {
		t.Errorf("got %q, %v", got, ok)
	}
}

func TestEmulation(t *testing.T) {
	if native, emulated, err := Emulation("linux/" + runtime.GOARCH); !native || emulated || err != nil {
		t.Errorf("own platform: %v, %v, %v", native, emulated, err)
	}
	_, _, err := Emulation("windows/amd64")
	if !errors.Is(err, ErrNoEmulator) || diag.HintOf(err) == "" {
		t.Errorf("windows: %v, hint %q", err, diag.HintOf(err))
	}
	if _, _, err := Emulation("a/b/c/d"); err == nil || errors.Is(err, ErrNoEmulator) {
		t.Errorf("nonsense: %v", err)
	}
}

func TestEmulatedBuild(t *testing.T) {
	arch := foreign()
	if err := RegisterBinfmt(arch); err != nil {
		t.Fatalf("%v (hint: %s)", err, diag.HintOf(err))
	}
	if native, emulated, err := Emulation("linux/" + arch); native || !emulated || err != nil {
		t.Fatalf("registered: %v, %v, %v", native, emulated, err)
	}
	path := filepath.Join(t.TempDir(), "sh")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./testdata/shell")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sh, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	h.arch = arch
	h.pushImage(t, "base", "latest", file{"bin/", 0o755, nil}, file{"bin/sh", 0o755, sh})
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM strata.internal/base\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n", nil)
	j.Platform = "linux/" + arch
	r, _ := mustBuild(t, e, j)
	if text := h.layerText(t, "out/app", r.Body); !strings.Contains(text, "arch 0\n"+arch+"\n") {
		t.Errorf("image:\n%s", text)
	}
	code, out, err := e.Run(t.Context(), RunJob{
		Image: j.Repository + "@" + r.Manifest.Digest.String(), Platform: j.Platform, Args: []string{"/bin/sh", "-c", "cat /arch; exit 5"},
	}, event.Discard)
	if code != 5 || string(out) != arch+"\n" || err != nil {
		t.Errorf("exit code %d, output %q, %v", code, out, err)
	}
}

// The kernel's "exec format error" is for nobody: the hint says what to install.
func TestMissingEmulatorHint(t *testing.T) {
	arch := ""
	for a := range machines {
		if _, _, err := Emulation("linux/" + a); errors.Is(err, ErrNoEmulator) {
			arch = a
		}
	}
	if arch == "" {
		t.Fatal("this machine emulates everything: unregister one emulator (echo -1 > /proc/sys/fs/binfmt_misc/qemu-s390x)")
	}
	m := machines[arch]
	sh := append([]byte(nil), shell...)
	copy(sh, m.header())
	m.order.PutUint32(sh[20:], binary.LittleEndian.Uint32(sh[20:]))
	h := newHub(t)
	h.arch = arch
	h.pushImage(t, "base", "latest", file{"bin/", 0o755, nil}, file{"bin/sh", 0o755, sh})
	e := open(t, t.TempDir(), h)
	j := job(t, "FROM strata.internal/base\nRUN echo never\n", nil)
	j.Platform = "linux/" + arch
	_, err := e.Build(t.Context(), j, event.Discard)
	if err == nil || !strings.Contains(err.Error(), "exec format error") || !strings.Contains(diag.HintOf(err), "qemu-user-static") {
		t.Errorf("build: %v\nhint: %q", err, diag.HintOf(err))
	}
}
