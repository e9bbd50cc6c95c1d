package export

import (
	"testing"

	"github.com/strata-build/strata/internal/printable"
)

// A bake file shows all of a value: what would hide or reorder it is written as
// HCL's escape.
func TestHiddenInHCL(t *testing.T) {
	got := hcl("a\x1b]0;t\a\u202eb\U000e0041 \"${x}\"\n")
	if want := `"a\u001b]0;t\u0007\u202eb\U000e0041 \"$${x}\"\n"`; got != want || !printable.Clean(got) {
		t.Errorf("%s, not %s", got, want)
	}
}
