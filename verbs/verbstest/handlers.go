package verbstest

import (
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var handlerChecks = []check{
	{"a handler posts", handlerPosts},
	{"a handler moves its queue pair to Err", handlerModifies},
	{"a handler destroys its queue pair", handlerDestroys},
	{"a handler destroys its queue pair and CQ", handlerDestroysCQ},
	{"separate CQs for sends and receives", separateCQs},
	{"the event handler destroys", eventDestroys},
}

// handlerPosts bounces a message between two handlers.
func handlerPosts(e *env) {
	const rounds = 500
	p := e.pair()
	done := make(chan struct{})
	for _, s := range []*Side{p.A, p.B} {
		buf := make([]byte, 100)
		recv := []verbs.RecvWR{{WRID: 1, SG: s.SG(buf)}}
		send := []verbs.SendWR{{WRID: 2, SG: s.SG(buf)}}
		s.Do("set the handler", func() error {
			left := rounds
			s.OnCompletion = func(wcs []verbs.WC) bool {
				for _, wc := range wcs {
					if wc.Status != verbs.WCSuccess || wc.Opcode != verbs.WCRecv {
						e.Errorf("%s: completion %s", s.Name, describe(wc))
						return true
					}
					if err := s.QP.PostRecv(recv); err != nil {
						e.Errorf("%s: post receive: %v", s.Name, err)
					}
					if left--; left == 0 && s == p.A {
						close(done)
						return true
					}
					if err := s.QP.PostSend(send); err != nil {
						e.Errorf("%s: post send: %v", s.Name, err)
					}
				}
				return true
			}
			return s.QP.PostRecv(recv)
		})
	}
	p.B.Post(verbs.SendWR{WRID: 2, SG: p.B.SG(make([]byte, 100))})
	select {
	case <-done:
	case <-time.After(patience):
		e.Fatalf("%d rounds are not over within %v", rounds, patience)
	}
	p.A.Do("let go", func() error { return nil })
}

// handlerModifies: the flush that follows comes as a batch of its own, or at
// the end of the batch, but never while the handler runs.
func handlerModifies(e *env) {
	p := e.pair()
	p.A.PostRecv(10, Bufs(3, 10)...)
	p.A.Do("set the handler", func() error {
		p.A.OnCompletion = func(wcs []verbs.WC) bool {
			if wcs[0].WRID == 10 {
				if err := p.A.QP.Modify(verbs.Err); err != nil {
					e.Errorf("modify: %v", err)
				}
				if err := p.A.QP.Modify(verbs.Err); err != nil {
					e.Errorf("modify again: %v", err)
				}
			}
			return false
		}
		return nil
	})
	p.B.Post(verbs.SendWR{WRID: 1, SG: p.B.SG(make([]byte, 5))})
	p.A.Expect(Received(10, 5), Flushed(Received(11, 0)), Flushed(Received(12, 0)))
	p.A.ExpectState(verbs.Err)
	p.A.ExpectNoEvent()
}

// handlerDestroys: what was posted never completes.
func handlerDestroys(e *env) {
	p := e.pair()
	p.A.PostRecv(10, Bufs(3, 10)...)
	gone := make(chan struct{})
	p.A.Do("set the handler", func() error {
		p.A.OnCompletion = func(wcs []verbs.WC) bool {
			if wcs[0].WRID != 10 || len(wcs) > 1 {
				e.Errorf("completions from %s on, want that of receive 10 alone", describe(wcs[0]))
				return true
			}
			if err := p.A.QP.Destroy(); err != nil {
				e.Errorf("destroy: %v", err)
			}
			p.A.Forget(p.A.QP)
			close(gone)
			return true
		}
		return nil
	})
	p.B.Post(verbs.SendWR{WRID: 1, SG: p.B.SG(make([]byte, 5))})
	select {
	case <-gone:
	case <-time.After(patience):
		e.Fatalf("no completion within %v", patience)
	}
	p.A.ExpectNone(20 * time.Millisecond)
}

func handlerDestroysCQ(e *env) {
	p := e.pair()
	gone := make(chan struct{})
	var cq verbs.CQ
	var qp verbs.QP
	attr := DefaultAttr(e.cfg.MTU)
	p.A.Do("create CQ", func() (err error) {
		cq, err = p.A.PD.CreateCQ(verbs.CQAttr{Size: 64, Handler: func(wcs []verbs.WC) {
			select {
			case <-gone:
				e.Error("the handler of a destroyed CQ was called")
				return
			default:
			}
			if err := qp.Destroy(); err != nil {
				e.Errorf("destroy QP: %v", err)
			}
			if err := cq.Destroy(); err != nil {
				e.Errorf("destroy CQ: %v", err)
			}
			close(gone)
		}})
		return err
	})
	init := attr.Init
	init.SendCQ, init.RecvCQ = cq, cq
	qp = p.A.CreateQP(init)
	p.A.Forget(qp)
	peer := p.B.CreateQP(attr.Init)
	p.ConnectQPs(qp, peer, attr)
	sg := p.A.SG(make([]byte, 10))
	recvs := []verbs.RecvWR{{SG: sg}, {SG: sg}}
	p.A.Do("post", func() error {
		// A flush is two completions at once, so that the handler is in the
		// middle of something when it destroys.
		if err := qp.PostRecv(recvs); err != nil {
			return err
		}
		return qp.Modify(verbs.Err)
	})
	select {
	case <-gone:
	case <-time.After(patience):
		e.Fatalf("no completion within %v", patience)
	}
	p.A.ExpectNone(10 * time.Millisecond)
}

func separateCQs(e *env) {
	var sends, recvs []verbs.WC // on the loop
	a := NewSide(e.T, "A", e.a)
	b := NewSide(e.T, "B", e.b)
	attr := DefaultAttr(e.cfg.MTU)
	done := make(chan struct{}, 1)
	var scq, rcq verbs.CQ
	a.Do("create CQs", func() (err error) {
		if scq, err = a.PD.CreateCQ(verbs.CQAttr{Size: 16, Handler: func(wcs []verbs.WC) {
			sends = append(sends, wcs...)
			done <- struct{}{}
		}}); err != nil {
			return err
		}
		rcq, err = a.PD.CreateCQ(verbs.CQAttr{Size: 16, Handler: func(wcs []verbs.WC) { recvs = append(recvs, wcs...) }})
		return err
	})
	init := attr.Init
	init.SendCQ, init.RecvCQ = scq, rcq
	a.QP, b.QP = a.CreateQP(init), b.CreateQP(attr.Init)
	(&Pair{a, b}).ConnectQPs(a.QP, b.QP, attr)
	a.PostRecv(1, make([]byte, 10))
	b.PostRecv(2, make([]byte, 10))
	b.Post(verbs.SendWR{WRID: 3, Flags: verbs.SendSignaled, SG: b.SG(make([]byte, 10))})
	b.Expect(Sent(3))
	a.Post(verbs.SendWR{WRID: 4, Flags: verbs.SendSignaled, SG: a.SG(make([]byte, 10))})
	b.Expect(Received(2, 10))
	select {
	case <-done:
	case <-time.After(patience):
		e.Fatalf("no completion within %v", patience)
	}
	a.Do("look", func() error {
		if len(sends) != 1 || sends[0].WRID != 4 || len(recvs) != 1 || recvs[0].WRID != 1 {
			e.Errorf("the send CQ had %v, the receive CQ %v", sends, recvs)
		}
		return nil
	})
	a.Destroy(a.QP)
	a.Do("destroy CQs", func() error {
		if err := scq.Destroy(); err != nil {
			return err
		}
		return rcq.Destroy()
	})
}

// eventDestroys destroys a queue pair from within its event.
func eventDestroys(e *env) {
	a, b := NewSide(e.T, "A", e.a), NewSide(e.T, "B", e.b)
	attr := DefaultAttr(e.cfg.MTU)
	init := attr.Init
	gone := make(chan error, 2)
	var qp verbs.QP
	init.Event = func(error) { gone <- qp.Destroy() }
	qp = a.CreateQP(init)
	a.Forget(qp)
	a.QP, b.QP = qp, b.CreateQP(attr.Init)
	(&Pair{a, b}).ConnectQPs(a.QP, b.QP, attr)
	a.Post(verbs.SendWR{Opcode: verbs.WRRDMAWrite, SG: a.SG(make([]byte, 10)), RKey: 0xbad})
	select {
	case err := <-gone:
		if err != nil {
			e.Errorf("destroy: %v", err)
		}
	case <-time.After(patience):
		e.Fatalf("no event within %v", patience)
	}
	a.Do("let go", func() error { return nil })
	b.ExpectEvent()
	b.ExpectState(verbs.Err)
}
