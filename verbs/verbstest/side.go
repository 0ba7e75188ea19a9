package verbstest

import (
	"fmt"
	"testing"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

// patience is how long a completion may take. In a bubble that is virtual
// time.
const patience = 30 * time.Second

// A Side is one end of a test: a protection domain and a completion queue on a
// node, and what was made of them. Its methods are for the test's goroutine;
// they get on the loop by themselves, and fail the test if they cannot do what
// they are for. What is left at the end of the test is destroyed, in order,
// and must be destroyable.
type Side struct {
	Node Node
	Name string // in messages
	PD   verbs.PD
	CQ   verbs.CQ
	QP   verbs.QP // what methods use that are not told otherwise

	// OnCompletion, if set, is called on the loop with each batch before its
	// completions go to Expect; if it returns true they do not. It is set on the
	// loop, or before there are queue pairs.
	OnCompletion func(wcs []verbs.WC) bool

	// Events are the errors that queue pairs went to Err with.
	Events chan error

	t       testing.TB
	wcs     chan verbs.WC
	lkey    uint32
	hasLKey bool
	mrs     []verbs.MR
	srqs    []verbs.SRQ
	qps     []verbs.QP

	// On the loop.
	handling bool
	closed   bool
	batches  int
}

// completionRoom bounds the completions that a test leaves unexpected.
const completionRoom = 1 << 14

// NewSide makes a PD and a CQ on n.
func NewSide(t testing.TB, name string, n Node) *Side {
	t.Helper()
	s := &Side{
		Node: n, Name: name, t: t,
		wcs:    make(chan verbs.WC, completionRoom),
		Events: make(chan error, 256),
	}
	var err error
	if s.PD, err = n.Device.AllocPD(); err != nil {
		t.Fatalf("%s: allocate PD: %v", name, err)
	}
	s.lkey, s.hasLKey = s.PD.LocalDMALKey()
	s.Do("create CQ", func() (err error) {
		s.CQ, err = s.PD.CreateCQ(verbs.CQAttr{Size: 4096, Handler: s.handle})
		return err
	})
	t.Cleanup(s.close)
	return s
}

// handle is the CQ's handler.
func (s *Side) handle(wcs []verbs.WC) {
	if s.handling {
		s.t.Errorf("%s: the CQ's handler was called while it ran", s.Name)
	}
	if s.closed {
		s.t.Errorf("%s: the CQ's handler was called after Destroy", s.Name)
	}
	if len(wcs) == 0 {
		s.t.Errorf("%s: the CQ's handler was called with no completions", s.Name)
	}
	s.handling = true
	defer func() { s.handling = false }()
	s.batches++
	if s.OnCompletion != nil && s.OnCompletion(wcs) {
		return
	}
	for _, wc := range wcs {
		select {
		case s.wcs <- wc:
		default:
			s.t.Errorf("%s: more than %d completions that nobody expects", s.Name, completionRoom)
			return
		}
	}
}

// close destroys what is left.
func (s *Side) close() {
	check := func(what string, err error) {
		if err != nil {
			s.t.Errorf("%s: %s: %v", s.Name, what, err)
		}
	}
	check("destroy", s.Try(func() error {
		for _, q := range s.qps {
			check("destroy QP", q.Destroy())
		}
		for _, q := range s.srqs {
			check("destroy SRQ", q.Destroy())
		}
		check("destroy CQ", s.CQ.Destroy())
		s.closed = true
		return nil
	}))
	for _, mr := range s.mrs {
		check("deregister MR", mr.Dereg())
	}
	check("deallocate PD", s.PD.Dealloc())
}

// Try runs fn on the loop and returns its error.
func (s *Side) Try(fn func() error) error {
	var err error
	if e := s.Node.Run(func() { err = fn() }); e != nil {
		return e
	}
	return err
}

// Do runs fn on the loop and fails the test if it returns an error.
func (s *Side) Do(what string, fn func() error) {
	s.t.Helper()
	if err := s.Try(fn); err != nil {
		s.t.Fatalf("%s: %s: %v", s.Name, what, err)
	}
}

// Post posts send work requests.
func (s *Side) Post(wrs ...verbs.SendWR) {
	s.t.Helper()
	s.Do("post send", func() error { return s.QP.PostSend(wrs) })
}

// PostRecv posts a receive for each buffer, with IDs from id on.
func (s *Side) PostRecv(id uint64, bufs ...[]byte) {
	s.t.Helper()
	wrs := make([]verbs.RecvWR, len(bufs))
	for i, b := range bufs {
		wrs[i] = verbs.RecvWR{WRID: id + uint64(i), SG: s.SG(b)}
	}
	s.Do("post receive", func() error { return s.QP.PostRecv(wrs) })
}

// Bufs returns count buffers of n bytes.
func Bufs(count, n int) [][]byte {
	bufs := make([][]byte, count)
	for i := range bufs {
		bufs[i] = make([]byte, n)
	}
	return bufs
}

// SG returns the elements that name bufs.
func (s *Side) SG(bufs ...[]byte) []verbs.SGE {
	s.t.Helper()
	sg := make([]verbs.SGE, len(bufs))
	for i, b := range bufs {
		sg[i] = verbs.SGE{Buf: b, LKey: s.lkey}
		if !s.hasLKey && len(b) > 0 {
			sg[i].LKey = s.RegMR(b, 0, verbs.AccessLocalWrite).LKey()
		}
	}
	return sg
}

// RegMR registers buf.
func (s *Side) RegMR(buf []byte, iova uint64, access verbs.Access) verbs.MR {
	s.t.Helper()
	mr, err := s.PD.RegMR(buf, iova, access)
	if err != nil {
		s.t.Fatalf("%s: register %d bytes: %v", s.Name, len(buf), err)
	}
	s.mrs = append(s.mrs, mr)
	return mr
}

// AllocMR makes a region for fast registration.
func (s *Side) AllocMR(maxLen int) verbs.MR {
	s.t.Helper()
	mr, err := s.PD.AllocMR(maxLen)
	if err != nil {
		s.t.Fatalf("%s: allocate MR of %d bytes: %v", s.Name, maxLen, err)
	}
	s.mrs = append(s.mrs, mr)
	return mr
}

// Dereg deregisters mr.
func (s *Side) Dereg(mr verbs.MR) {
	s.t.Helper()
	s.mrs = without(s.mrs, mr)
	if err := mr.Dereg(); err != nil {
		s.t.Fatalf("%s: deregister MR: %v", s.Name, err)
	}
}

// CreateQP makes a queue pair in Init. Its CQs are the side's where attr has
// none, its events go to Events unless attr has an Event.
func (s *Side) CreateQP(attr verbs.QPInitAttr) verbs.QP {
	s.t.Helper()
	var qp verbs.QP
	s.Do("create QP", func() (err error) {
		if qp, err = s.PD.CreateQP(s.complete(attr)); err != nil {
			return err
		}
		s.qps = append(s.qps, qp)
		return qp.Modify(verbs.Init)
	})
	return qp
}

// complete fills in what is the side's.
func (s *Side) complete(attr verbs.QPInitAttr) verbs.QPInitAttr {
	if attr.SendCQ == nil {
		attr.SendCQ = s.CQ
	}
	if attr.RecvCQ == nil {
		attr.RecvCQ = s.CQ
	}
	if attr.Event == nil {
		attr.Event = func(err error) { s.Events <- err }
	}
	return attr
}

// CreateSRQ makes a shared receive queue.
func (s *Side) CreateSRQ(maxWR, maxSGE int) verbs.SRQ {
	s.t.Helper()
	var srq verbs.SRQ
	s.Do("create SRQ", func() (err error) {
		srq, err = s.PD.CreateSRQ(verbs.SRQAttr{MaxWR: maxWR, MaxSGE: maxSGE})
		return err
	})
	s.srqs = append(s.srqs, srq)
	return srq
}

// Destroy destroys a queue pair.
func (s *Side) Destroy(qp verbs.QP) {
	s.t.Helper()
	s.Do("destroy QP", qp.Destroy)
	s.Forget(qp)
}

// Forget does not destroy qp at the end: the test has done so.
func (s *Side) Forget(qp verbs.QP) { s.qps = without(s.qps, qp) }

// without returns list without x.
func without[T comparable](list []T, x T) []T {
	for i := range list {
		if list[i] == x {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// State returns the state of the queue pair.
func (s *Side) State() (state verbs.QPState) {
	s.t.Helper()
	s.Do("query QP", func() error { state = s.QP.State(); return nil })
	return state
}

// ExpectState fails the test unless the queue pair is in that state.
func (s *Side) ExpectState(want verbs.QPState) {
	s.t.Helper()
	if got := s.State(); got != want {
		s.t.Errorf("%s: the QP is in %v, want %v", s.Name, got, want)
	}
}

// Modify moves the queue pair.
func (s *Side) Modify(to verbs.QPState) {
	s.t.Helper()
	s.Do("modify QP", func() error { return s.QP.Modify(to) })
}

// ExpectEvent waits for the event that a queue pair went to Err.
func (s *Side) ExpectEvent() {
	s.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-s.Events:
		if err == nil {
			s.t.Errorf("%s: an event without an error", s.Name)
		}
	case <-timer.C:
		s.t.Fatalf("%s: no event within %v", s.Name, patience)
	}
}

// ExpectNoEvent fails the test if there is an event now.
func (s *Side) ExpectNoEvent() {
	s.t.Helper()
	select {
	case err := <-s.Events:
		s.t.Errorf("%s: event %v, want none", s.Name, err)
	default:
	}
}

// Next waits for the next completion.
func (s *Side) Next() verbs.WC {
	s.t.Helper()
	select { // the usual case costs no timer
	case wc := <-s.wcs:
		return wc
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case wc := <-s.wcs:
		return wc
	case <-timer.C:
		s.t.Fatalf("%s: no completion within %v (QP in %v)", s.Name, patience, s.State())
		return verbs.WC{}
	}
}

// Expect waits for as many completions as it is given and compares them, in
// order, in what their statuses make valid. A QPN of 0 is that of QP.
func (s *Side) Expect(want ...verbs.WC) {
	s.t.Helper()
	for i, w := range want {
		if w.QPN == 0 {
			w.QPN = s.QP.Num()
		}
		got := s.Next()
		if err := compare(got, w); err != nil {
			s.t.Fatalf("%s: completion %d of %d: %v", s.Name, i+1, len(want), err)
		}
	}
}

// ExpectNone fails the test if there is a completion, or one comes within d.
func (s *Side) ExpectNone(d time.Duration) {
	s.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case wc := <-s.wcs:
		s.t.Errorf("%s: completion %s, want none", s.Name, describe(wc))
	case <-timer.C:
	}
}

func compare(got, want verbs.WC) error {
	g, w := valid(got, want), valid(want, want)
	if g != w {
		return fmt.Errorf("%s, want %s", describe(g), describe(w))
	}
	return nil
}

// valid returns wc with what does not count for a completion like want set to
// zero.
func valid(wc, want verbs.WC) verbs.WC {
	v := verbs.WC{WRID: wc.WRID, Status: wc.Status, QPN: wc.QPN}
	if want.Opcode != verbs.WCRecv {
		v.Opcode = wc.Opcode
		return v
	}
	if wc.Status != verbs.WCSuccess {
		return v
	}
	v.Opcode, v.ByteLen, v.Flags = wc.Opcode, wc.ByteLen, wc.Flags
	if wc.Flags&verbs.WCWithImm != 0 {
		v.Imm = wc.Imm
	}
	if wc.Flags&verbs.WCWithInvalidate != 0 {
		v.InvRKey = wc.InvRKey
	}
	return v
}

func describe(wc verbs.WC) string {
	s := fmt.Sprintf("{WRID %d, %v, %v, QPN %#x", wc.WRID, wc.Opcode, wc.Status, wc.QPN)
	if wc.Opcode == verbs.WCRecv {
		s += fmt.Sprintf(", %d bytes", wc.ByteLen)
	}
	if wc.Flags&verbs.WCWithImm != 0 {
		s += fmt.Sprintf(", imm %#x", wc.Imm)
	}
	if wc.Flags&verbs.WCWithInvalidate != 0 {
		s += fmt.Sprintf(", invalidated %#x", wc.InvRKey)
	}
	return s + "}"
}

// Sent, Wrote, Read and so on are completions to expect.
func Sent(id uint64) verbs.WC { return verbs.WC{WRID: id, Opcode: verbs.WCSend} }

// Wrote is the completion of an RDMA WRITE.
func Wrote(id uint64) verbs.WC { return verbs.WC{WRID: id, Opcode: verbs.WCRDMAWrite} }

// Read is the completion of an RDMA READ.
func Read(id uint64) verbs.WC { return verbs.WC{WRID: id, Opcode: verbs.WCRDMARead} }

// Registered is the completion of a fast registration.
func Registered(id uint64) verbs.WC { return verbs.WC{WRID: id, Opcode: verbs.WCRegMR} }

// Invalidated is the completion of a local invalidation.
func Invalidated(id uint64) verbs.WC { return verbs.WC{WRID: id, Opcode: verbs.WCLocalInv} }

// Received is the completion of a receive of n bytes.
func Received(id uint64, n int) verbs.WC {
	return verbs.WC{WRID: id, Opcode: verbs.WCRecv, ByteLen: uint32(n)}
}

// Failed is wc with an error.
func Failed(wc verbs.WC, status verbs.WCStatus) verbs.WC {
	wc.Status = status
	return wc
}

// Flushed is wc, flushed.
func Flushed(wc verbs.WC) verbs.WC { return Failed(wc, verbs.WCWRFlushErr) }
