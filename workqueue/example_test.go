package workqueue_test

import (
	"fmt"

	"github.com/fabrid/fabrid/workqueue"
)

// A connection is released on a queue: whoever drops the last reference does
// not wait for that.
type connection struct {
	id      int
	release workqueue.Work
}

func newConnection(id int) *connection {
	c := &connection{id: id}
	c.release.Init("connection.release", func() { fmt.Println("released", c.id) })
	return c
}

func Example() {
	deletions := workqueue.New(workqueue.Config{Name: "delete", Ordered: true})
	defer deletions.Destroy()

	for id := range 3 {
		c := newConnection(id)
		deletions.Queue(&c.release)
	}
	deletions.Flush()
	fmt.Println("flushed")
	// Output:
	// released 0
	// released 1
	// released 2
	// flushed
}

// Who must not wait has a barrier call back.
func ExampleQueue_FlushAsync() {
	deletions := workqueue.New(workqueue.Config{Name: "delete", Ordered: true})
	c := newConnection(1)
	deletions.Queue(&c.release)

	var admit workqueue.Barrier
	admit.Init("admit", func() { fmt.Println("room for another") })
	deletions.FlushAsync(&admit)

	deletions.Destroy()
	// Output:
	// released 1
	// room for another
}
