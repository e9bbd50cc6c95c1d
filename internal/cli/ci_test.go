//go:build linux

package cli

import "testing"

func TestInstallable(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                               "v1.2.3",
		"v1.2.3-rc.1":                          "v1.2.3-rc.1",
		"v1.2.3-4-gabc1234":                    "abc1234",
		"v1.2.3-4-gabc1234-dirty":              "abc1234",
		"abc1234":                              "abc1234",
		"abc1234-dirty":                        "abc1234",
		"v0.0.0-20261122060000-0123456789ab":   "v0.0.0-20261122060000-0123456789ab",
		"v1.2.4-0.20261122060000-0123456789ab": "v1.2.4-0.20261122060000-0123456789ab",
		"v1.2.3+dirty":                         "latest",
		"dev":                                  "latest",
		"unknown":                              "latest",
		"v0-test":                              "latest",
	} {
		if got := installable(version); got != want {
			t.Errorf("%s: %q, want %q", version, got, want)
		}
	}
}
