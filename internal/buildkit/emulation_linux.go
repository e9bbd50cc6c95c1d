package buildkit

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strata-build/strata/internal/diag"
)

// binfmtDir is where the kernel keeps what runs foreign programs
// (Documentation/admin-guide/binfmt-misc.rst).
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// machine is how a program of an architecture begins, and what QEMU calls it.
type machine struct {
	qemu  string
	class elf.Class
	order binary.ByteOrder
	id    elf.Machine
}

var machines = map[string]machine{
	"386":      {"i386", elf.ELFCLASS32, binary.LittleEndian, elf.EM_386},
	"amd64":    {"x86_64", elf.ELFCLASS64, binary.LittleEndian, elf.EM_X86_64},
	"arm":      {"arm", elf.ELFCLASS32, binary.LittleEndian, elf.EM_ARM},
	"arm64":    {"aarch64", elf.ELFCLASS64, binary.LittleEndian, elf.EM_AARCH64},
	"loong64":  {"loongarch64", elf.ELFCLASS64, binary.LittleEndian, elf.EM_LOONGARCH},
	"mips64le": {"mips64el", elf.ELFCLASS64, binary.LittleEndian, elf.EM_MIPS},
	"ppc64le":  {"ppc64le", elf.ELFCLASS64, binary.LittleEndian, elf.EM_PPC64},
	"riscv64":  {"riscv64", elf.ELFCLASS64, binary.LittleEndian, elf.EM_RISCV},
	"s390x":    {"s390x", elf.ELFCLASS64, binary.BigEndian, elf.EM_S390},
}

// header gives the first 20 bytes of a program.
func (m machine) header() []byte {
	h := make([]byte, 20)
	copy(h, elf.ELFMAG)
	h[elf.EI_CLASS] = byte(m.class)
	h[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	if m.order == binary.BigEndian {
		h[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	}
	h[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	m.order.PutUint16(h[16:], uint16(elf.ET_EXEC))
	m.order.PutUint16(h[18:], uint16(m.id))
	return h
}

// interpreter is an entry of binfmt_misc.
type interpreter struct {
	enabled     bool
	flags       string
	magic, mask []byte
	offset      int
}

// takes tells whether the kernel hands a program that begins with h to it, in a
// container too: without the F flag the path is looked up in the container.
func (i interpreter) takes(h []byte) bool {
	if !i.enabled || !strings.Contains(i.flags, "F") || len(i.magic) == 0 || i.offset+len(i.magic) > len(h) {
		return false
	}
	for n, b := range h[i.offset : i.offset+len(i.magic)] {
		m := byte(0xff)
		if n < len(i.mask) {
			m = i.mask[n]
		}
		if (b^i.magic[n])&m != 0 {
			return false
		}
	}
	return true
}

func parseInterpreter(data []byte) interpreter {
	var i interpreter
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "enabled":
			i.enabled = true
		case "flags:":
			i.flags = value
		case "offset":
			i.offset, _ = strconv.Atoi(value)
		case "magic":
			i.magic, _ = hex.DecodeString(value)
		case "mask":
			i.mask, _ = hex.DecodeString(value)
		}
	}
	return i
}

// hasEmulator tells whether programs of arch run in containers by emulation.
func hasEmulator(arch string) (bool, error) {
	m, ok := machines[arch]
	if !ok {
		return false, nil
	}
	entries, err := os.ReadDir(binfmtDir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for emulators: %w", err)
	}
	h := m.header()
	for _, e := range entries {
		if e.Name() == "register" || e.Name() == "status" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(binfmtDir, e.Name()))
		if err == nil && parseInterpreter(data).takes(h) {
			return true, nil
		}
	}
	return false, nil
}

// RegisterBinfmt makes programs of arch ("arm64") run by QEMU, in containers
// too, until the machine restarts. It needs root and an installed
// qemu-user-static, and does nothing when there is an emulator already. Engines
// that were opened before may not notice.
func RegisterBinfmt(arch string) error {
	m, ok := machines[arch]
	if !ok {
		return fmt.Errorf("registering emulator for %q: the architecture is unknown", arch)
	}
	if found, err := hasEmulator(arch); found || err != nil {
		return err
	}
	rule, err := m.rule()
	if err != nil {
		return fmt.Errorf("registering emulator for %q: %w", arch, err)
	}
	if err := register("qemu-"+m.qemu, rule); err != nil {
		return fmt.Errorf("registering emulator for %q: %w", arch, err)
	}
	if found, err := hasEmulator(arch); err != nil || !found {
		return errors.Join(fmt.Errorf("registering emulator for %q: the kernel did not take %q", arch, rule), err)
	}
	return nil
}

// rule gives the line to register: the distribution's where there is one, else
// one for a static QEMU on PATH. The F flag makes the kernel hold the emulator
// open, so that containers need not have it.
func (m machine) rule() (string, error) {
	for _, dir := range []string{"/etc/binfmt.d", "/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d"} {
		data, err := os.ReadFile(filepath.Join(dir, "qemu-"+m.qemu+".conf"))
		if err != nil {
			continue
		}
		if rule, ok := firstRule(string(data)); ok {
			return rule, nil
		}
	}
	for _, name := range []string{"qemu-" + m.qemu + "-static", "qemu-" + m.qemu} {
		if path, err := exec.LookPath(name); err == nil {
			return m.ownRule(path), nil
		}
	}
	return "", diag.Hint(fmt.Errorf("no QEMU for %s is installed", m.qemu), "apt-get install qemu-user-static")
}

// firstRule finds the first rule of a binfmt.d file whose interpreter exists,
// and adds the F flag.
func firstRule(conf string) (string, bool) {
	for line := range strings.Lines(conf) {
		line = strings.TrimSpace(line)
		if line == "" || strings.ContainsRune("#;", rune(line[0])) {
			continue
		}
		fields := strings.Split(line[1:], line[:1]) // name, type, offset, magic, mask, interpreter, flags
		if len(fields) != 7 {
			continue
		}
		if _, err := os.Stat(fields[5]); err != nil {
			continue
		}
		if !strings.Contains(fields[6], "F") {
			line += "F"
		}
		return line, true
	}
	return "", false
}

// ownRule matches programs and shared objects of any ABI.
func (m machine) ownRule(path string) string {
	h := m.header()
	mask := bytes.Repeat([]byte{0xff}, len(h))
	mask[elf.EI_OSABI] = 0
	low := 16 // low byte of e_type: executables are 2, position-independent ones 3
	if m.order == binary.BigEndian {
		low = 17
	}
	mask[low] = 0xfe
	return fmt.Sprintf(":qemu-%s:M::%s:%s:%s:OCF", m.qemu, escape(h), escape(mask), path)
}

func escape(data []byte) string {
	var b strings.Builder
	for _, c := range data {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

// register hands rule to the kernel, in place of an entry of the same name that
// is of no use.
func register(name, rule string) error {
	file := filepath.Join(binfmtDir, "register")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mount("binfmt_misc", binfmtDir, "binfmt_misc", 0, ""); err != nil {
			return diag.Hint(fmt.Errorf("mounting %q: %w", binfmtDir, err), "run as root; modprobe binfmt_misc")
		}
	}
	old := filepath.Join(binfmtDir, name)
	if _, err := os.Stat(old); err == nil {
		if err := os.WriteFile(old, []byte("-1"), 0); err != nil {
			return fmt.Errorf("removing %q: %w", old, err)
		}
	}
	if err := os.WriteFile(file, []byte(rule), 0); err != nil {
		return diag.Hint(err, "run as root")
	}
	return nil
}
