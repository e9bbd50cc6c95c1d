// Package buildkit is the engine: BuildKit inside this process ([Open]), or any
// BuildKit that can be dialled ([Dial]). It is the only package that imports
// BuildKit's engine and client.
//
// It takes [build.Job] values and gives images that were pushed by digest, with
// what the engine did as events. The embedded engine needs Linux and root; it
// keeps its whole state under one folder, which one process at a time may use.
package buildkit
