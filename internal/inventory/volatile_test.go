package inventory

import "testing"

func TestVolatile(t *testing.T) {
	for p, want := range map[string]bool{
		"var/log/apt/history.log":               true,
		"var/log":                               false, // the folder itself is part of the image
		"var/lib/dpkg/status":                   false,
		"var/lib/dpkg/status-old":               true,
		"var/lib/dpkg/info/x.list-old":          false,
		"tmp/x":                                 false,
		"root/.cache/model.bin":                 false,
		"usr/lib/__pycache__/a.cpython-311.pyc": true,
		"opt/only.pyc":                          false,
		"usr/bin/python3":                       false,
		"var/cache/ldconfig/aux-cache":          true,
	} {
		if got := Volatile(p); got != want {
			t.Errorf("Volatile(%q) is %v", p, got)
		}
	}
}
