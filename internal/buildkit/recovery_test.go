//go:build linux

package buildkit

// childRoot names the environment variable that makes the test binary build
// below that folder until it is killed.
const childRoot = "STRATA_TEST_CHILD_ROOT"

func child(root string) int { return 0 }
