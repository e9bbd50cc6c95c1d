// Package image makes new images out of images that exist, without an engine
// and without reading a blob of theirs.
//
// [Append] puts a Dockerfile's tail (COPY, ADD, WORKDIR and instructions that
// only change the config) on a parent: it takes the parent's manifest and
// config, its inventory, the instructions with the files that they take, and
// gives a plan whose one blob is streamed by [Appended.WriteBlob]. The result has
// the file system and the config that BuildKit would have made. What can't be
// decided exactly is a [*NotExact], and the engine builds instead. That covers
// what BuildKit refuses too: the engine then says why.
//
// [Rebase] puts an image's own blobs on another parent by reference: a three-way
// merge of inventories, in which package databases are merged by content. It
// takes the three images and a trace of the own layers, says which files it has
// to see, and gives the image, or every conflict.
//
// Everything works on values, readers and writers. Nothing here knows a
// registry, and the same input gives the same bytes on every machine.
package image

import "fmt"

// NotExact says that an instruction can't be carried out exactly without the
// engine.
type NotExact struct {
	Line   int // of the Dockerfile
	Reason string
}

// Error gives the reason with the line.
func (e *NotExact) Error() string {
	if e.Line == 0 {
		return e.Reason
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
}

// inexact is a NotExact whose line is filled in by the caller.
func inexact(format string, args ...any) error {
	return &NotExact{Reason: fmt.Sprintf(format, args...)}
}
