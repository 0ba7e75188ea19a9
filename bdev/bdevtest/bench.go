package bdevtest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// A Bench is a device and a shard to use it from.
type Bench struct {
	T     *testing.T
	Dev   bdev.Device
	Shard *shard.Shard

	id      uint64 // of the shard's goroutine
	forgets bool
}

// NewBench returns a bench, which ends device and shard with the test.
func NewBench(t *testing.T, dev bdev.Device) *Bench {
	t.Helper()
	s, err := shard.New(shard.Config{Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	b := &Bench{T: t, Dev: dev, Shard: s}
	if err := s.Run(func() { b.id = lockdep.GoroutineID() }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		s.Close()
	})
	return b
}

// another returns a second bench with a shard of its own for the same device.
func (b *Bench) another() *Bench {
	o := NewBench(b.T, b.Dev)
	o.forgets = b.forgets
	return o
}

// Start submits op on the shard and returns a channel that is closed when it
// is done.
func (b *Bench) Start(op *bdev.Op) <-chan struct{} {
	done := make(chan struct{})
	op.Shard = b.Shard
	op.Done = func(got *bdev.Op) {
		if got != op {
			b.T.Errorf("Done of %v with another op", op.Kind)
		}
		if id := lockdep.GoroutineID(); id != b.id {
			b.T.Errorf("Done of %v on goroutine %d, want the shard's, %d", op.Kind, id, b.id)
		}
		close(done) // panics if called twice
	}
	if err := b.Shard.Run(func() { b.Dev.Submit(op) }); err != nil {
		b.T.Fatal(err)
	}
	return done
}

// Do carries op out and returns its error.
func (b *Bench) Do(op *bdev.Op) error {
	<-b.Start(op)
	return op.Err
}

// OK carries op out, which must succeed.
func (b *Bench) OK(op *bdev.Op) {
	b.T.Helper()
	if err := b.Do(op); err != nil {
		b.T.Fatalf("%v %d+%d: %v", op.Kind, op.Offset, op.Length, err)
	}
}

// Read returns n bytes from off on.
func (b *Bench) Read(off, n uint64) []byte {
	b.T.Helper()
	buf := Fill(int(n), 0xCC)
	b.OK(&bdev.Op{Kind: bdev.Read, Offset: off, Length: n, Data: Cut(buf)})
	return buf
}

// Write writes data at off.
func (b *Bench) Write(off uint64, data []byte) {
	b.T.Helper()
	b.OK(&bdev.Op{Kind: bdev.Write, Offset: off, Length: uint64(len(data)), Data: Cut(data)})
}

// Flush flushes.
func (b *Bench) Flush() {
	b.T.Helper()
	b.OK(&bdev.Op{Kind: bdev.Flush})
}

// Cut splits b into pieces of odd sizes, with an empty one among them.
func Cut(b []byte) [][]byte {
	var pieces [][]byte
	for n := 1; len(b) > n; n = n*5 + 2 {
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return append(pieces, nil, b)
}

// Fill returns n times c.
func Fill(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

// Pattern returns n bytes that differ from those of any other seed.
func Pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}
