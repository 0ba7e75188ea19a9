// Package verbstest is the conformance suite of the seam [verbs]. Every
// provider runs it ([Run]), and so does whatever pretends to be one.
//
// A check is a sequence of posts and of the completions that they lead to, on
// the two ends of a [Pair]. A provider's own tests can be written so too.
package verbstest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/verbs"
)

// A Node is a device and how to get on its loop.
type Node struct {
	Device verbs.Device
	Addr   netip.Addr // its end of a [verbs.Path]

	// Run runs fn on the loop of completion vector 0 and returns when it has
	// run. It is called by goroutines that are no loop.
	Run func(fn func()) error
}

// Config describes a provider to the suite.
type Config struct {
	// Open opens two devices that reach each other. They are closed by
	// t.Cleanup, after all that was made of them is destroyed.
	Open func(t testing.TB) (a, b Node)

	// MTU is the path MTU of connections; zero: 1024.
	MTU int

	// Without lists the opcodes that the provider does not have. They are not
	// used but to see that they fail.
	Without []verbs.WROpcode

	// Bubble runs every check inside a testing/synctest bubble: Open may use
	// simulated networks and clocks only.
	Bubble bool
}

// A check is one property that a provider must have.
type check struct {
	name string
	run  func(e *env)
}

// An env is what a check has: two devices, nothing on them.
type env struct {
	*testing.T
	cfg  Config
	a, b Node
}

// Run runs all checks, each as a subtest with devices of its own.
func Run(t *testing.T, cfg Config) {
	if cfg.MTU == 0 {
		cfg.MTU = 1024
	}
	for _, c := range allChecks(cfg) {
		t.Run(c.name, func(t *testing.T) {
			body := func(t *testing.T) {
				e := &env{T: t, cfg: cfg}
				e.a, e.b = cfg.Open(t)
				c.run(e)
			}
			if cfg.Bubble {
				synctest.Test(t, body)
			} else {
				body(t)
			}
		})
	}
}

func allChecks(cfg Config) []check {
	var all []check
	for _, group := range [][]check{
		deviceChecks, stateChecks, transferChecks(), orderChecks, readChecks,
		remoteErrorChecks(), localErrorChecks, receiveChecks, regionChecks,
		queueChecks, sharedChecks, handlerChecks,
	} {
		all = append(all, group...)
	}
	for _, op := range cfg.Without {
		all = append(all, check{fmt.Sprintf("no opcode %d", op), func(e *env) { refusedOpcode(e, op) }})
	}
	return all
}

// needs is run, unless the provider lacks one of ops.
func needs(run func(e *env), ops ...verbs.WROpcode) func(e *env) {
	return func(e *env) {
		for _, op := range ops {
			if slices.Contains(e.cfg.Without, op) {
				e.Skipf("the provider has no opcode %d", op)
			}
		}
		run(e)
	}
}

// pair connects a pair of queue pairs, with the attributes that mods leave.
func (e *env) pair(mods ...func(*Attr)) *Pair {
	e.Helper()
	attr := DefaultAttr(e.cfg.MTU)
	for _, mod := range mods {
		mod(&attr)
	}
	return Connect(e.T, e.a, e.b, attr)
}
