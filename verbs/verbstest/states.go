package verbstest

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/fabrid/fabrid/verbs"
)

var deviceChecks = []check{
	{"a device says what it can do", deviceAttr},
	{"what is in use cannot be freed", freeInOrder},
	{"what is more than the device can is refused", beyondLimits},
}

var stateChecks = []check{
	{"what a state does not allow", stateErrors},
	{"a queue pair that is destroyed", destroyTwice},
	{"a path that is none", badPath},
}

func deviceAttr(e *env) {
	a, b := e.a.Device.Attr(), e.b.Device.Attr()
	if a.NodeGUID == 0 || a.NodeGUID == b.NodeGUID {
		e.Errorf("node GUIDs %#x and %#x", a.NodeGUID, b.NodeGUID)
	}
	if a != e.a.Device.Attr() {
		e.Error("the attributes of a device changed")
	}
	if a.NumCompVectors < 1 || a.MaxQPWR < 128 || a.MaxSGE < 4 || a.MaxCQE < 128 || a.MaxSRQWR < 128 ||
		a.MaxQPRdAtom < 1 || a.MaxQPInitRd < 1 || a.MaxMRSize < 1<<20 || a.MaxFastRegLen < 1<<20 {
		e.Errorf("a device that can do too little: %+v", a)
	}
}

func freeInOrder(e *env) {
	pd, err := e.a.Device.AllocPD()
	if err != nil {
		e.Fatal(err)
	}
	refused := func(what string, err error) {
		if err == nil {
			e.Errorf("%s was freed while in use", what)
		}
	}
	must := func(what string, err error) {
		if err != nil {
			e.Errorf("%s: %v", what, err)
		}
	}
	mr, err := pd.RegMR(make([]byte, 10), 0, 0)
	must("register MR", err)
	refused("a PD with an MR", pd.Dealloc())
	must("deregister MR", mr.Dereg())
	var cq verbs.CQ
	var srq verbs.SRQ
	var qp verbs.QP
	must("run", e.a.Run(func() {
		cq, err = pd.CreateCQ(verbs.CQAttr{Size: 8, Handler: func([]verbs.WC) {}})
		must("create CQ", err)
		srq, err = pd.CreateSRQ(verbs.SRQAttr{MaxWR: 8, MaxSGE: 1})
		must("create SRQ", err)
		qp, err = pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, SRQ: srq, MaxSendWR: 1, MaxSendSGE: 1})
		must("create QP", err)
	}))
	if e.Failed() {
		return
	}
	refused("a PD with a CQ, an SRQ and a QP", pd.Dealloc())
	must("run", e.a.Run(func() {
		refused("a CQ with a QP", cq.Destroy())
		refused("an SRQ with a QP", srq.Destroy())
		must("destroy QP", qp.Destroy())
		must("destroy SRQ", srq.Destroy())
	}))
	refused("a PD with a CQ", pd.Dealloc())
	must("run", e.a.Run(func() { must("destroy CQ", cq.Destroy()) }))
	must("deallocate PD", pd.Dealloc())
}

func beyondLimits(e *env) {
	s := NewSide(e.T, "A", e.a)
	d := s.Node.Device.Attr()
	init := DefaultAttr(e.cfg.MTU).Init
	for _, c := range []struct {
		name string
		try  func() error
	}{
		{"vector of a CQ", func() error {
			_, err := s.PD.CreateCQ(verbs.CQAttr{Vector: d.NumCompVectors, Size: 1, Handler: func([]verbs.WC) {}})
			return err
		}},
		{"negative vector of a CQ", func() error {
			_, err := s.PD.CreateCQ(verbs.CQAttr{Vector: -1, Size: 1, Handler: func([]verbs.WC) {}})
			return err
		}},
		{"entries of a CQ", func() error {
			_, err := s.PD.CreateCQ(verbs.CQAttr{Size: d.MaxCQE + 1, Handler: func([]verbs.WC) {}})
			return err
		}},
		{"vector of an SRQ", func() error {
			_, err := s.PD.CreateSRQ(verbs.SRQAttr{Vector: d.NumCompVectors, MaxWR: 1, MaxSGE: 1})
			return err
		}},
		{"receives of an SRQ", func() error {
			_, err := s.PD.CreateSRQ(verbs.SRQAttr{MaxWR: d.MaxSRQWR + 1, MaxSGE: 1})
			return err
		}},
		{"elements of an SRQ", func() error {
			_, err := s.PD.CreateSRQ(verbs.SRQAttr{MaxWR: 1, MaxSGE: d.MaxSGE + 1})
			return err
		}},
		{"sends of a QP", func() error {
			at := s.complete(init)
			at.MaxSendWR = d.MaxQPWR + 1
			_, err := s.PD.CreateQP(at)
			return err
		}},
		{"receives of a QP", func() error {
			at := s.complete(init)
			at.MaxRecvWR = d.MaxQPWR + 1
			_, err := s.PD.CreateQP(at)
			return err
		}},
		{"elements of a send", func() error {
			at := s.complete(init)
			at.MaxSendSGE = d.MaxSGE + 1
			_, err := s.PD.CreateQP(at)
			return err
		}},
		{"elements of a receive", func() error {
			at := s.complete(init)
			at.MaxRecvSGE = d.MaxSGE + 1
			_, err := s.PD.CreateQP(at)
			return err
		}},
		{"a QP without CQs", func() error {
			at := init
			_, err := s.PD.CreateQP(at)
			return err
		}},
	} {
		err := s.Try(c.try)
		switch {
		case err == nil:
			e.Errorf("%s: no error", c.name)
		case !strings.Contains(err.Error(), ": "):
			e.Errorf("%s: error %q does not say whose it is", c.name, err)
		}
	}
}

// stateErrors draws what may be done in Reset, Init, RTS and Err.
func stateErrors(e *env) {
	s := NewSide(e.T, "A", e.a)
	peer := NewSide(e.T, "B", e.b)
	attr := DefaultAttr(e.cfg.MTU)
	peer.QP = peer.CreateQP(attr.Init)
	at := attr.QP
	at.Path.Local, at.Path.Remote = e.a.Addr, e.b.Addr
	at.DestQPN = peer.QP.Num()
	at.RemoteAccess = allAccess
	sg := s.SG(make([]byte, 1))

	reach := map[verbs.QPState]func(q verbs.QP) error{
		verbs.Reset: func(q verbs.QP) error { return nil },
		verbs.Init:  func(q verbs.QP) error { return q.Modify(verbs.Init) },
		verbs.RTS: func(q verbs.QP) error {
			return errors.Join(q.Modify(verbs.Init), q.Connect(at))
		},
		verbs.Err: func(q verbs.QP) error {
			return errors.Join(q.Modify(verbs.Init), q.Connect(at), q.Modify(verbs.Err))
		},
	}
	acts := []struct {
		name    string
		allowed string // in which states
		act     func(q verbs.QP) error
		to      verbs.QPState // where it leads, if allowed and a move
		moves   bool
	}{
		{"post send", "RTS ERR", func(q verbs.QP) error { return q.PostSend([]verbs.SendWR{{WRID: 1, SG: sg}}) }, 0, false},
		{"post receive", "INIT RTS ERR", func(q verbs.QP) error { return q.PostRecv([]verbs.RecvWR{{WRID: 1, SG: sg}}) }, 0, false},
		{"connect", "INIT", func(q verbs.QP) error { return q.Connect(at) }, verbs.RTS, true},
		{"to Reset", "RESET INIT RTS ERR", func(q verbs.QP) error { return q.Modify(verbs.Reset) }, verbs.Reset, true},
		{"to Init", "RESET INIT", func(q verbs.QP) error { return q.Modify(verbs.Init) }, verbs.Init, true},
		{"to RTR", "", func(q verbs.QP) error { return q.Modify(verbs.RTR) }, 0, false},
		{"to SQE", "", func(q verbs.QP) error { return q.Modify(verbs.SQE) }, 0, false},
		{"to Err", "INIT RTS ERR", func(q verbs.QP) error { return q.Modify(verbs.Err) }, verbs.Err, true},
		{"to a state that is none", "", func(q verbs.QP) error { return q.Modify(99) }, 0, false},
	}
	for state, get := range reach {
		for _, a := range acts {
			allowed := strings.Contains(" "+a.allowed+" ", " "+state.String()+" ")
			s.Do(a.name, func() error {
				q, err := s.PD.CreateQP(s.complete(attr.Init))
				if err != nil {
					return err
				}
				if err := get(q); err != nil {
					return err
				}
				err = a.act(q)
				var se *verbs.StateError
				switch {
				case allowed && err != nil:
					e.Errorf("in %v: %s: %v", state, a.name, err)
				case !allowed && !errors.As(err, &se):
					e.Errorf("in %v: %s: %v, want a *StateError", state, a.name, err)
				}
				want := state
				if allowed && a.moves {
					want = a.to
				}
				if q.State() != want {
					e.Errorf("in %v: %s: leads to %v, want %v", state, a.name, q.State(), want)
				}
				return q.Destroy()
			})
		}
	}
	drain(s) // flushes
}

func destroyTwice(e *env) {
	p := e.pair()
	qp := p.A.QP
	p.A.Destroy(qp)
	sg := p.A.SG(make([]byte, 1))
	for _, c := range []struct {
		name string
		try  func() error
	}{
		{"destroy", qp.Destroy},
		{"post send", func() error { return qp.PostSend([]verbs.SendWR{{SG: sg}}) }},
		{"connect", func() error { return qp.Connect(verbs.QPAttr{}) }},
	} {
		if err := p.A.Try(c.try); err == nil {
			e.Errorf("%s after destroy: no error", c.name)
		}
	}
}

// badPath: a connection that cannot be is refused, and the queue pair stays
// in Init.
func badPath(e *env) {
	s := NewSide(e.T, "A", e.a)
	attr := DefaultAttr(e.cfg.MTU)
	good := attr.QP
	good.Path.Local, good.Path.Remote = e.a.Addr, e.b.Addr
	good.DestQPN = 5
	for _, c := range []struct {
		name  string
		spoil func(*verbs.QPAttr)
	}{
		{"MTU 0", func(a *verbs.QPAttr) { a.Path.MTU = 0 }},
		{"MTU 1500", func(a *verbs.QPAttr) { a.Path.MTU = 1500 }},
		{"MTU 8192", func(a *verbs.QPAttr) { a.Path.MTU = 8192 }},
		{"no remote address", func(a *verbs.QPAttr) { a.Path.Remote = netip.Addr{} }},
	} {
		qp := s.CreateQP(attr.Init)
		bad := good
		c.spoil(&bad)
		if err := s.Try(func() error { return qp.Connect(bad) }); err == nil {
			e.Errorf("%s: connected", c.name)
		}
		s.QP = qp
		s.ExpectState(verbs.Init)
		s.Do("connect", func() error { return qp.Connect(good) })
	}
}
