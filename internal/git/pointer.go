package git

import (
	"regexp"
	"strconv"
)

// MaxPointer bounds a pointer of git's large file storage (its specification:
// "less than 1024 bytes").
const MaxPointer = 1024

// pointer is the form of such a file; its oid is the sha256 of the content.
var pointer = regexp.MustCompile(`^version https://git-lfs\.github\.com/spec/v1\n(?:[a-z0-9.-]+ [^\n]*\n)*?oid sha256:([0-9a-f]{64})\n(?:[a-z0-9.-]+ [^\n]*\n)*?size ([0-9]+)\n`)

// Pointer reads a pointer of git's large file storage: the sha256, in hexadecimal
// digits, and the size of what it stands for.
func Pointer(content []byte) (sum string, size int64, ok bool) {
	if len(content) >= MaxPointer {
		return "", 0, false
	}
	m := pointer.FindSubmatch(content)
	if m == nil {
		return "", 0, false
	}
	size, err := strconv.ParseInt(string(m[2]), 10, 64)
	return string(m[1]), size, err == nil
}
