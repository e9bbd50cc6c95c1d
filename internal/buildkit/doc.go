// Package buildkit is the engine: BuildKit inside this process ([Open]), or any
// BuildKit that can be dialled ([Dial]). It is the only package that imports
// BuildKit's engine and client.
//
// It takes [build.Job] values and gives images, with what the engine did as
// events. Images are pushed by digest; the embedded engine can keep them to
// itself as well, and then makes their layers on all processors. It needs Linux
// and root, and keeps its whole state under one folder, which one process at a
// time may use.
package buildkit
