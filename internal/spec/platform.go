package spec

import (
	"slices"
	"strings"
)

// Platforms are the platforms that a project may name, as os/arch[/variant] in
// the OCI image specification's words. They are the Linux ports that BuildKit
// has a worker for, natively or through qemu-user.
var Platforms = []string{
	"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/386",
	"linux/ppc64le", "linux/s390x", "linux/riscv64", "linux/loong64",
}

// osOf gives the first part of a platform: "linux".
func osOf(platform string) string {
	os, _, _ := strings.Cut(platform, "/")
	return os
}

// archOf gives what stands for a platform's architecture in names: "arm64",
// "armv7".
func archOf(platform string) string {
	_, arch, _ := strings.Cut(platform, "/")
	return strings.ReplaceAll(arch, "/", "")
}

// machinePart reports whether word names an operating system or architecture,
// which a variant must not, or "cuda/arm64" could mean two things.
func machinePart(word string) bool {
	return slices.ContainsFunc(Platforms, func(p string) bool {
		return word == osOf(p) || slices.Contains(strings.Split(p, "/")[1:], word) || word == archOf(p)
	})
}
