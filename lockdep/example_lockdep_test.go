//go:build lockdep

package lockdep_test

import (
	"fmt"

	"github.com/fabrid/fabrid/lockdep"
)

// A test that closes a cycle on purpose does so in a validator of its own.
func ExampleValidator_Run() {
	v := lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) {
		fmt.Println(r.Kind)
		for _, class := range r.Classes {
			fmt.Println("->", class)
		}
	}})
	v.Run(func() {
		b := &bank{accounts: []*account{{}}}
		b.total()

		a := b.accounts[0]
		a.mu.Lock()
		defer a.mu.Unlock()
		b.mu.Lock() // bank after account: the other way round
		defer b.mu.Unlock()
	})
	// Output:
	// possible circular locking dependency detected
	// -> lockdep_test.bankLock
	// -> lockdep_test.accountLock
}
