//go:build lockdep

package rdmacm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
	"github.com/fabrid/fabrid/workqueue"
)

// A handler that flushes the workqueue on which IDs are destroyed may wait for
// itself: that is what the validator must see, although the two never meet.
func TestFlushInHandlerIsReported(t *testing.T) {
	for _, name := range []string{"events", "nvmet-rdma-delete-wq"} { // a private one is no better
		reports := make(chan *lockdep.Report, 16)
		v := lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) { reports <- r }})
		v.Run(func() {
			release := workqueue.New(workqueue.Config{Name: name})
			defer release.Destroy()
			cm := rdmacm.New(rdmacm.Config{})
			defer cm.Close()
			p := &rdmacmtest.Provider{}
			told := make(chan *rdmacm.ID, 1)
			l, err := cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error {
				release.Flush()
				told <- ev.Conn
				return nil
			})
			if err == nil {
				err = l.Listen(p, local)
			}
			if err != nil {
				t.Fatal(err)
			}
			p.Request(local, remote, rdmacm.ConnParam{})
			id := <-told
			var w workqueue.Work
			w.Init("nvmet_rdma_release_queue_work", func() { _ = id.Destroy() })
			release.Queue(&w)
			w.Flush()
		})
		select {
		case r := <-reports:
			for _, class := range []string{"handler mutex", "wq_completion", "work_completion"} {
				if !slices.ContainsFunc(r.Classes, func(s string) bool { return strings.Contains(s, class) }) {
					t.Errorf("the cycle %q is without %s", r.Classes, class)
				}
			}
		default:
			t.Error("no report")
		}
	}
}
