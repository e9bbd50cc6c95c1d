package buildkit

// RuncPath gives the runc that an engine with its state under root would use,
// unpacking the one in the binary if need be; "" when there is none.
func RuncPath(root string) string {
	path, err := findRunc("", root)
	if err != nil {
		return ""
	}
	return path
}
