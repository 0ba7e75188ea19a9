package rdmacm

import (
	"time"

	"github.com/fabrid/fabrid/internal/list"
)

// A patience is the connect requests that nobody has answered yet, the oldest
// first. All have the same time, so one timer does, and a request costs neither
// an allocation nor a timer of its own.
type patience struct {
	timeout time.Duration
	ids     list.List[ID, askedPlace]
	timer   *time.Timer // made with the first request
	armed   bool
}

type askedPlace struct{}

func (askedPlace) Links(id *ID) *list.Links[ID] { return &id.asked }

// unanswered is the place of an ID in a patience, and until when it may stay.
type unanswered struct {
	asked list.Links[ID]
	until time.Time // zero: it is not in the list
}

// addRequest is add for the ID of a connect request, whose time begins.
func (cm *CM) addRequest(id *ID) bool {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	if cm.closed || cm.removing[id.provider] > 0 {
		return false
	}
	cm.ids[id] = struct{}{}
	p := &cm.asked
	id.until = time.Now().Add(p.timeout)
	p.ids.Push(id)
	if p.armed {
		return true
	}
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(p.timeout, cm.expire)
	} else {
		p.timer.Reset(p.timeout)
	}
	return true
}

// answered ends the time of a connect request, if id is one.
func (cm *CM) answered(id *ID) {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	if !id.until.IsZero() {
		cm.asked.remove(id)
	}
}

func (p *patience) remove(id *ID) {
	p.ids.Remove(id)
	id.until = time.Time{}
}

// stop ends the timer. There are no requests any more, and will be none.
func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// expire refuses the requests whose time is over. It runs once per timeout at
// most while there are requests: the timer is not moved for each.
func (cm *CM) expire() {
	for {
		id := cm.overdue()
		if id == nil {
			return
		}
		id.expire()
	}
}

// overdue takes the first request whose time is over from the list. If there is
// none, it arms the timer for the next, or leaves it.
func (cm *CM) overdue() *ID {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	p := &cm.asked
	id := p.ids.First()
	if id == nil {
		p.armed = false
		return nil
	}
	if d := time.Until(id.until); d > 0 {
		p.timer.Reset(d)
		return nil
	}
	p.remove(id)
	return id
}
