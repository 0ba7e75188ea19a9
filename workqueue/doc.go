// Package workqueue runs functions later, with a bounded number of goroutines.
// It follows Linux's workqueues in words and semantics.
//
//	queue := workqueue.New(workqueue.Config{Name: "delete", MaxActive: 4})
//	defer queue.Destroy()
//
//	var w workqueue.Work
//	w.Init("conn.release", release)
//	queue.Queue(&w)
//	queue.Flush() // release has run
//
// A [Work] is a field of what it works on, and a [Queue] has its goroutines from
// the beginning: queueing and running allocate nothing and start nothing, so a
// queue whose works free memory makes progress when there is none left. A work
// never runs twice at a time, and is never lost: a queue that cannot take one
// panics.
//
// # Waiting
//
// [Queue.Flush] waits for what was queued before, [Work.Flush] for one work,
// [Queue.Drain] until nothing is left, [Queue.Destroy] for the end of the
// workers too. None of them may be called by what the queue runs, which would
// wait for itself: they panic. [Queue.FlushAsync] does not wait but calls back,
// for those who must not wait: event handlers, works of the queue itself.
//
// # Operators
//
// [Queue.Stats] says how many workers there are, what waits and what runs, each
// by name and for how long; it is a struct for metrics and a text for people.
// [Queue.SetMaxActive] changes the number of workers.
//
// # Lock order
//
// With the build tag lockdep, whatever a queue runs holds a class of the queue,
// wq_completion, and one of the work, work_completion; a flush touches the first,
// and a flush of one work both. So the validator of package lockdep knows
// that who flushes while holding a lock waits for works which may take it,
// and reports it even if the two never met. Names are classes: give two queues,
// or two works, one name only if they play one role.
package workqueue
