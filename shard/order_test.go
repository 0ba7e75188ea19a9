//go:build lockdep

package shard

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/lockdep"
)

type (
	tableLock struct{}
	answered  struct{}
)

const (
	tableName    = "shard.tableLock"
	answeredName = "shard.answered"
)

// Waiting for a shard is an order like that of locks: what is wrong with it is
// reported though nobody is stuck.
func TestWaitsAreOrdered(t *testing.T) {
	var table lockdep.Mutex[tableLock]
	onShard := func(t *testing.T, s *Shard, fn func()) {
		if err := s.Run(fn); err != nil {
			t.Error(err)
		}
	}
	underTable := func(fn func()) {
		table.Lock()
		defer table.Unlock()
		fn()
	}
	for _, tc := range []struct {
		name string
		run  func(t *testing.T, s, other *Shard)
		want []string
	}{
		{"a lock on the shard", func(t *testing.T, s, _ *Shard) {
			onShard(t, s, func() { underTable(func() {}) })
		}, nil},
		{"a wait under a lock of others", func(t *testing.T, s, _ *Shard) {
			underTable(func() { onShard(t, s, func() {}) })
		}, nil},
		{"a wait under a lock that is taken there", func(t *testing.T, s, _ *Shard) {
			onShard(t, s, func() { underTable(func() {}) })
			underTable(func() { onShard(t, s, func() {}) })
		}, []string{`(shard)"test"`, tableName}},
		{"a wait for another shard", func(t *testing.T, s, other *Shard) {
			onShard(t, s, func() { onShard(t, other, func() {}) })
		}, []string{`(shard)"test"`}},
		{"a wait for one of another role", func(t *testing.T, s, _ *Shard) {
			far := NewSim(Config{Role: "far"})
			onShard(t, s, func() { onShard(t, far, func() {}) })
			if err := far.Close(); err != nil {
				t.Error(err)
			}
		}, nil},
		{"a wait on a shard for what a shard ends", func(t *testing.T, s, other *Shard) {
			var c lockdep.Completion[answered]
			onShard(t, s, c.Complete)
			onShard(t, other, c.Wait)
		}, []string{answeredName, `(shard)"test"`}},
		{"a shard ends what is waited for under a lock that it took", func(t *testing.T, s, _ *Shard) {
			var c lockdep.Completion[answered]
			onShard(t, s, func() { underTable(c.Complete) })
			underTable(c.Wait)
		}, []string{answeredName, tableName}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) {
					if got != nil {
						t.Errorf("a second report:\n%v", r)
					}
					got = r.Classes
				}}).Run(func() {
					s, other := NewSim(Config{Role: "test"}), NewSim(Config{Role: "test"})
					tc.run(t, s, other)
					for _, s := range []*Shard{s, other} {
						if err := s.Close(); err != nil {
							t.Error(err)
						}
					}
				})
				if !slices.Equal(got, tc.want) {
					t.Errorf("reported %q, want %q", got, tc.want)
				}
			})
		})
	}
}
