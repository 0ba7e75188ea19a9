package rdmacm

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Requests leave the list when they are answered, wherever they stand in it: a
// storm does not pile them up until their time is over.
func TestPatienceForgetsWhatIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cm := New(Config{})
		listed := func() (nums []uint64) {
			cm.mu.Lock()
			defer cm.mu.Unlock()
			for id := cm.asked.ids.First(); id != nil; id = cm.asked.ids.Next(id) {
				nums = append(nums, id.num)
			}
			return nums
		}
		var ids []*ID
		for range 4 {
			id := cm.newID(nil)
			if !cm.addRequest(id) {
				t.Fatal("not added")
			}
			ids = append(ids, id)
		}
		for _, c := range []struct {
			answer int
			want   []uint64
		}{{1, []uint64{1, 3, 4}}, {3, []uint64{1, 3}}, {3, []uint64{1, 3}}, {0, []uint64{3}}, {2, nil}} {
			cm.answered(ids[c.answer])
			if got := listed(); !slices.Equal(got, c.want) {
				t.Errorf("after the answer to %v there are %v, want %v", ids[c.answer], got, c.want)
			}
		}
		time.Sleep(2 * DefaultRequestTimeout)
		synctest.Wait()
		cm.mu.Lock()
		if cm.asked.armed {
			t.Error("the timer runs for nobody")
		}
		cm.mu.Unlock()
		for _, id := range ids {
			if err := id.Destroy(); err != nil {
				t.Error(err)
			}
		}
		if err := cm.Close(); err != nil {
			t.Error(err)
		}
	})
}
