//go:build !unix

package git

// owner gives the user to whom a file belongs, where there are such.
func owner(string) (int, bool) { return 0, false }

// sameDevice says whether two folders are on one file system.
func sameDevice(string, string) bool { return true }
