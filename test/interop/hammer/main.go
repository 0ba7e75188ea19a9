// Hammer writes and reads a few blocks of a block device, one at a time, over
// and over, beside others that do the same to the same blocks. Each block that
// it writes is one word, its own, repeated; a block that it reads must be one
// word repeated, whoever wrote it, or zeros. It prints what it did.
//
//	hammer DEVICE BLOCKSIZE BLOCKS SECONDS ID
package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%d arguments, want DEVICE BLOCKSIZE BLOCKS SECONDS ID", len(args))
	}
	var n [4]int
	for i, a := range args[1:] {
		var err error
		if n[i], err = strconv.Atoi(a); err != nil || n[i] <= 0 {
			return fmt.Errorf("%q: want a positive number", a)
		}
	}
	size, blocks, id := n[0], n[1], n[3]
	dev, err := os.OpenFile(args[0], os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	// Pages, for O_DIRECT.
	buf, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer syscall.Munmap(buf)

	var reads, writes, others uint64
	for end := time.Now().Add(time.Duration(n[2]) * time.Second); time.Now().Before(end); {
		at := int64(rand.IntN(blocks)) * int64(size)
		if rand.IntN(2) == 0 {
			writes++
			fill(buf, uint64(id)<<56|writes)
			if _, err := dev.WriteAt(buf, at); err != nil {
				return err
			}
			continue
		}
		reads++
		if _, err := dev.ReadAt(buf, at); err != nil {
			return err
		}
		word, err := one(buf)
		if err != nil {
			return fmt.Errorf("read %d, at byte %d: %w", reads, at, err)
		}
		if word != 0 && int(word>>56) != id {
			others++
		}
	}
	fmt.Println(writes, reads, others)
	return nil
}

func fill(buf []byte, word uint64) {
	for b := buf; len(b) > 0; b = b[8:] {
		binary.LittleEndian.PutUint64(b, word)
	}
}

// one returns the word that buf is made of.
func one(buf []byte) (uint64, error) {
	first := binary.LittleEndian.Uint64(buf)
	for i := 8; i < len(buf); i += 8 {
		if w := binary.LittleEndian.Uint64(buf[i:]); w != first {
			return 0, fmt.Errorf("%#x at first and %#x at %d", first, w, i)
		}
	}
	return first, nil
}
