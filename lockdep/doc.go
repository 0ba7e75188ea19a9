// Package lockdep is a lock-order validator: it finds deadlocks that could
// happen, in runs where they did not.
//
// Every lock has a class, which is a type:
//
//	type queueLock struct{} // after ctrlLock, before bdevLock
//
//	type queue struct {
//		mu lockdep.Mutex[queueLock]
//	}
//
// When a goroutine that holds a lock of class A takes one of class B, the
// validator records "A before B" with the stacks. A lock that would close a
// cycle, over any number of classes, is reported before it blocks, with every
// step of the cycle; so is a second lock of a class already held. It is enough
// that each order has been seen once, anywhere, at any time.
//
// It works under the build tag lockdep:
//
//	go test -tags lockdep ./...
//
// Without the tag a [Mutex] is a [sync.Mutex] in size and speed, a [Map]
// is nothing, and all annotations compile to nothing.
//
// # Classes
//
// A class is a role, not an object: all locks declared with one type are of one
// class. Where two of a class are held together by design, the inner one is
// taken with a nesting level ([Mutex.LockNested]). If the class type has a
// String method, reports use what it returns.
//
// # Waiting is locking
//
// A goroutine that waits for another depends on all that the other does before
// it lets go. Every such wait has a class too, held by those who are waited
// for: [Completion] for an event, [WaitGroup] for goroutines, and [Map], the
// primitive of both, for anything else. A workqueue, for example, holds a Map
// around what it runs and touches it in its flush; then "flush the queue while
// holding A" and "a work item takes A" close a cycle. An event loop, which is
// one goroutine, holds its Map alone and for good: who waits for the loop may
// hold nothing that is taken there, and who is there waits for no other such.
//
// Who completes an event, or is done in a group, is seen with the locks that it
// holds then. What it takes and gives back on its way there must be declared,
// by Acquire and Release around all that the waiters wait for.
//
// # Rules
//
//   - A lock is unlocked by the goroutine that locked it; to pass a lock on
//     there are [Mutex.HandOver] and [Mutex.TakeOver].
//   - [RWMutex] is not recursive, and readers are ordered as writers are.
//   - TryLock, which does not wait, sets no order before the lock.
//   - A Map keeps nobody from acquiring it, so Acquire sets no order between a
//     lock held before it and the Map, only between Maps; Touch, the wait, does.
//   - Two Maps, two locks, or one of each with the same type are of one class.
//
// # Reports and tests
//
// A report is a panic with a [*Report], which is as good as a deadlock found.
// A test that closes a cycle on purpose uses a validator of its own:
//
//	v := lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) { ... }})
//	v.Run(func() { ... })
//
// What runs inside belongs to v, and so do goroutines started from there with
// [Go], [WaitGroup.Go], or by a package that does so (a workqueue made inside
// belongs to v). Goroutines started with a go statement belong to the
// validator of the process.
//
// # Cost
//
// With the tag an operation takes a microsecond or two, most of it to keep the
// stack. Which goroutine it is on the validator sees from a register of the
// runtime's on amd64, arm64 and s390x; elsewhere it asks [GoroutineID], and an
// operation takes several times as long.
package lockdep
