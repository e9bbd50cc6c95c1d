// Command fill writes made-up files: `fill FOLDER BYTES SEED`. Like what a
// package manager installs, half of the bytes are in many small files and half
// in few large ones, and about two thirds of each can't be compressed. The same
// arguments give the same files.
package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

const (
	smallFile = 32 << 10
	largeFile = 64 << 20
	perFolder = 100
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fill:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: fill FOLDER BYTES SEED")
	}
	total, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("reading the number of bytes: %w", err)
	}
	w := writer{dir: args[0], random: rand.NewChaCha8(sha256.Sum256([]byte(args[2])))}
	for total > 0 {
		small := min(total, largeFile)
		for left := small; left > 0; {
			n := min(left, smallFile/2+int64(w.random.Uint64()%smallFile))
			if err := w.file(n); err != nil {
				return err
			}
			left -= n
		}
		total -= small
		if large := min(total, largeFile); large > 0 {
			if err := w.file(large); err != nil {
				return err
			}
			total -= large
		}
	}
	return nil
}

type writer struct {
	dir    string
	random *rand.ChaCha8
	files  int
}

// file writes the next file of n bytes: two blocks of random bytes, one of
// text, and so on.
func (w *writer) file(n int64) error {
	dir := filepath.Join(w.dir, fmt.Sprintf("d%05d", w.files/perFolder))
	if w.files%perFolder == 0 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("f%05d", w.files)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w.files++
	block := make([]byte, 4096)
	for i := 0; n > 0; i++ {
		if i%3 < 2 {
			_, _ = w.random.Read(block) // never fails
		} else {
			fillText(block, i)
		}
		m := min(n, int64(len(block)))
		if _, err := f.Write(block[:m]); err != nil {
			f.Close()
			return err
		}
		n -= m
	}
	return f.Close()
}

func fillText(block []byte, i int) {
	line := fmt.Sprintf("def function_%d(argument): return argument + %d\n", i, i)
	for at := 0; at < len(block); {
		at += copy(block[at:], line)
	}
}
