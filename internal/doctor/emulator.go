package doctor

import (
	"io/fs"
	"strings"
)

// machine is how binfmt_misc tells an architecture's programs.
type machine struct {
	qemu  string // name that QEMU has for it
	class string // EI_CLASS in hex: 01 is 32 bit, 02 is 64
	id    string // e_machine in hex, in the architecture's byte order (ELF specification; elf.h)
}

// machines holds the architectures by Go's names, as platforms use them.
var machines = map[string]machine{
	"386":      {"i386", "01", "0300"},
	"amd64":    {"x86_64", "02", "3e00"},
	"arm":      {"arm", "01", "2800"},
	"arm64":    {"aarch64", "02", "b700"},
	"loong64":  {"loongarch64", "02", "0201"},
	"mips64":   {"mips64", "02", "0008"},
	"mips64le": {"mips64el", "02", "0800"},
	"ppc64le":  {"ppc64le", "02", "1500"},
	"riscv64":  {"riscv64", "02", "f300"},
	"s390x":    {"s390x", "02", "0016"},
}

// native says whether a processor of architecture host runs programs for
// arch by itself.
func native(host, arch string) bool {
	return host == arch || host == "amd64" && arch == "386" || host == "arm64" && arch == "arm"
}

const binfmt = "proc/sys/fs/binfmt_misc"

// emulator wants the platform's programs to run: natively, or by an
// interpreter that binfmt_misc keeps open (flag F), so that it works in
// containers where its file isn't.
func emulator(o Options, platform string) Check {
	parts := strings.Split(platform, "/")
	if len(parts) < 2 || parts[0] != "linux" {
		return fail("name a platform of Linux, such as linux/amd64", "only images for Linux can be built")
	}
	arch := parts[1]
	if native(o.Arch, arch) {
		return ok("native")
	}
	m, known := machines[arch]
	if !known {
		return fail(remoteHint, "no emulator is known for %q", arch)
	}
	const need = "RUN steps need an emulator: "
	switch o.read(binfmt + "/status") {
	case "enabled":
	case "disabled":
		return warn("echo 1 | sudo tee /proc/sys/fs/binfmt_misc/status", need+"binfmt_misc is switched off")
	default:
		return warn("sudo mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc\n"+m.register(o), need+"binfmt_misc is not mounted")
	}
	e, found := findEntry(o, m)
	switch {
	case !found:
		return warn(m.register(o), need+"none is registered for %s", arch)
	case !e.enabled:
		return warn("echo 1 | sudo tee /proc/sys/fs/binfmt_misc/"+e.name, need+"%s is switched off", e.name)
	case !strings.Contains(e.flags, "F"):
		return warn("echo -1 | sudo tee /proc/sys/fs/binfmt_misc/"+e.name+"\n"+m.register(o),
			need+"%s is registered without the flag F, so containers don't find it", e.name)
	}
	return ok("emulated by %s (%s)", e.interpreter, e.name)
}

// register gives the commands that install and register QEMU's emulator.
func (m machine) register(o Options) string {
	install := "sudo apt-get install qemu-user-static"
	if _, err := fs.Stat(o.Machine, "run/systemd/system"); err == nil {
		return install + "\nsudo systemctl restart systemd-binfmt"
	}
	// Without systemd the package installs the file and registers nothing.
	return install + "\nsudo cp /usr/lib/binfmt.d/qemu-" + m.qemu + ".conf /proc/sys/fs/binfmt_misc/register"
}

// entry is one registration of binfmt_misc.
type entry struct {
	name, interpreter, flags string
	enabled                  bool
}

// findEntry looks for the registration of m: by what it matches, since names
// are free. One that works is preferred.
func findEntry(o Options, m machine) (entry, bool) {
	files, err := fs.ReadDir(o.Machine, binfmt)
	if err != nil {
		return entry{}, false
	}
	var best entry
	found := false
	for _, f := range files {
		if f.Name() == "register" || f.Name() == "status" {
			continue
		}
		e, magic := parseEntry(f.Name(), o.read(binfmt+"/"+f.Name()))
		if e.name != "qemu-"+m.qemu && !m.matches(magic) {
			continue
		}
		if !found || e.enabled && strings.Contains(e.flags, "F") {
			best, found = e, true
		}
	}
	return best, found
}

// parseEntry reads the text that the kernel gives of a registration
// (Documentation/admin-guide/binfmt-misc.rst).
func parseEntry(name, text string) (e entry, magic string) {
	e.name = name
	for l := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(l), " ")
		switch strings.TrimSuffix(k, ":") {
		case "enabled":
			e.enabled = true
		case "interpreter":
			e.interpreter = v
		case "flags":
			e.flags = v
		case "magic":
			magic = v
		}
	}
	return e, magic
}

// matches says whether a magic in hex is the head of m's programs: ELF, the
// class at byte 4, the machine at bytes 18 and 19.
func (m machine) matches(magic string) bool {
	return strings.HasPrefix(magic, "7f454c46"+m.class) && len(magic) >= 40 && magic[36:40] == m.id
}
