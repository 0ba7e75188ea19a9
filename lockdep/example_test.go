package lockdep_test

import (
	"fmt"

	"github.com/fabrid/fabrid/lockdep"
)

type accountLock struct{} // after bankLock

type account struct {
	mu      lockdep.Mutex[accountLock]
	balance int // guarded by mu
}

type bankLock struct{} // before accountLock

type bank struct {
	mu       lockdep.Mutex[bankLock]
	accounts []*account // guarded by mu
}

func (b *bank) total() (sum int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		a.mu.Lock()
		sum += a.balance
		a.mu.Unlock()
	}
	return sum
}

// Every lock has a class; the program runs the same with the validator and
// without.
func Example() {
	b := &bank{accounts: []*account{{balance: 7}, {balance: 5}}}
	fmt.Println(b.total())
	// Output: 12
}
