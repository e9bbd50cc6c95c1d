package times

// Stamped says under which times the files of build contexts are given to an
// engine, and which are published for them.
type Stamped struct {
	// At has the times in ns, by the context's name ("" is the build context) and
	// by path in it, links resolved.
	At    map[string]map[string]int64
	Known Known
}
