package rdma

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
	"github.com/fabrid/fabrid/verbs"
)

// A raw is a peer that sends whatever a test wants: a host without our host, a
// target without our target. Its methods are for the test's goroutine.
type raw struct {
	t      testing.TB
	shard  *shard.Shard
	pd     verbs.PD
	cq     verbs.CQ
	qp     verbs.QP
	id     *rdmacm.ID
	lkey   uint32
	bufs   [][]byte
	recvd  chan []byte
	wcs    chan verbs.WC // of sends, and of receives that failed
	events chan rdmacm.Event
	mrs    []verbs.MR
	keep   bool // receives are not posted again; on the shard
}

const rawReceives = 64

func newRaw(t testing.TB, dev *fakeverbs.Device, s *shard.Shard, id *rdmacm.ID) *raw {
	t.Helper()
	r := &raw{t: t, shard: s, id: id, recvd: make(chan []byte, 1024), wcs: make(chan verbs.WC, 1024), events: make(chan rdmacm.Event, 64)}
	var err error
	if r.pd, err = dev.AllocPD(); err != nil {
		t.Fatal(err)
	}
	r.lkey, _ = r.pd.LocalDMALKey()
	r.on(func() error {
		if r.cq, err = r.pd.CreateCQ(verbs.CQAttr{Size: 4096, Handler: r.completed}); err != nil {
			return err
		}
		if r.qp, err = r.pd.CreateQP(verbs.QPInitAttr{
			SendCQ: r.cq, RecvCQ: r.cq, MaxSendWR: 512, MaxRecvWR: rawReceives, MaxSendSGE: 1, MaxRecvSGE: 1, SQSigAll: true,
		}); err != nil {
			return err
		}
		if err := r.qp.Modify(verbs.Init); err != nil {
			return err
		}
		for i := range rawReceives {
			r.bufs = append(r.bufs, make([]byte, 8192))
			if err := r.post(i); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(r.close)
	return r
}

func (r *raw) on(fn func() error) {
	r.t.Helper()
	var err error
	if e := r.shard.Run(func() { err = fn() }); e != nil || err != nil {
		r.t.Fatal(e, err)
	}
}

func (r *raw) post(i int) error {
	return r.qp.PostRecv([]verbs.RecvWR{{WRID: uint64(i), SG: []verbs.SGE{{Buf: r.bufs[i], LKey: r.lkey}}}})
}

func (r *raw) completed(wcs []verbs.WC) {
	for _, wc := range wcs {
		if wc.Opcode != verbs.WCRecv || wc.Status != verbs.WCSuccess {
			r.wcs <- wc
			continue
		}
		r.recvd <- append([]byte(nil), r.bufs[wc.WRID][:wc.ByteLen]...)
		if !r.keep {
			_ = r.post(int(wc.WRID))
		}
	}
}

func (r *raw) close() {
	_ = r.id.Destroy()
	r.on(func() error {
		if err := r.qp.Destroy(); err != nil {
			return err
		}
		return r.cq.Destroy()
	})
	for _, m := range r.mrs {
		if err := m.Dereg(); err != nil {
			r.t.Error(err)
		}
	}
	if err := r.pd.Dealloc(); err != nil {
		r.t.Error(err)
	}
}

// send posts SENDs, all at once.
func (r *raw) send(capsules ...[]byte) {
	r.t.Helper()
	wrs := make([]verbs.SendWR, len(capsules))
	for i, b := range capsules {
		wrs[i] = verbs.SendWR{Opcode: verbs.WRSend, SG: []verbs.SGE{{Buf: b, LKey: r.lkey}}}
	}
	r.on(func() error { return r.qp.PostSend(wrs) })
}

// reg registers memory that the peer may access.
func (r *raw) reg(buf []byte, iova uint64) verbs.MR {
	r.t.Helper()
	m, err := r.pd.RegMR(buf, iova, verbs.AccessLocalWrite|verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mrs = append(r.mrs, m)
	return m
}

func (r *raw) event(want rdmacm.EventType) rdmacm.Event {
	r.t.Helper()
	select {
	case ev := <-r.events:
		if ev.Type != want {
			r.t.Fatalf("event %v (%d, %v), want %v", ev.Type, ev.Status, ev.Err, want)
		}
		return ev
	case <-time.After(20 * time.Second):
		r.t.Fatalf("no event, want %v", want)
		return rdmacm.Event{}
	}
}

func (r *raw) response() nvme.Completion {
	r.t.Helper()
	select {
	case b := <-r.recvd:
		var c nvme.Completion
		if err := c.Parse(b); err != nil {
			r.t.Fatal(err)
		}
		return c
	case <-time.After(20 * time.Second):
		r.t.Fatal("no response")
		return nvme.Completion{}
	}
}

// A request of a raw host.
type rawRequest struct {
	private   []byte
	resources uint8
}

func goodRequest(qid uint16, depth int) rawRequest {
	return rawRequest{
		nvme.RDMACMRequest{QID: qid, HRQSIZE: uint16(depth), HSQSIZE: uint16(depth - 1)}.AppendTo(nil), 16,
	}
}

// rawHost asks the target for a connection.
func (w *world) rawHost(q rawRequest) *raw {
	w.Helper()
	return w.rawHostOf(w.hostDev, hostAddr, q)
}

// otherHost is the device of another host than all before.
func (w *world) otherHost() (*fakeverbs.Device, netip.Addr) {
	w.others++
	addr := netip.AddrFrom4([4]byte{192, 0, 2, 100 + w.others})
	return w.net.NewDevice(addr, w.hostShards, fakeverbs.Options{}), addr
}

func (w *world) rawHostOf(dev *fakeverbs.Device, addr netip.Addr, q rawRequest) *raw {
	w.Helper()
	var r *raw
	ready := make(chan struct{})
	id, err := w.hostCM.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error {
		<-ready
		r.events <- *ev
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	if err := id.Resolve(dev.Provider(), addr, portal); err != nil {
		w.Fatal(err)
	}
	r = newRaw(w.TB, dev, w.hostShards[id.Vector()], id)
	close(ready)
	if err := id.Connect(r.qp, rdmacm.ConnParam{PrivateData: q.private, ResponderResources: q.resources, RNRRetryCount: 7}); err != nil {
		w.Fatal(err)
	}
	return r
}

// connectRaw connects a raw host.
func (w *world) connectRaw(qid uint16, depth int) (*raw, *testQueue) {
	w.Helper()
	return w.connectRawOf(w.hostDev, hostAddr, qid, depth)
}

func (w *world) connectRawOf(dev *fakeverbs.Device, addr netip.Addr, qid uint16, depth int) (*raw, *testQueue) {
	w.Helper()
	r := w.rawHostOf(dev, addr, goodRequest(qid, depth))
	ev := r.event(rdmacm.Established)
	var rep nvme.RDMACMReply
	if err := rep.Parse(ev.Param.PrivateData); err != nil || int(rep.CRQSIZE) != depth {
		w.Errorf("CRQSIZE %d, %v, want %d", rep.CRQSIZE, err, depth)
	}
	return r, <-w.core.opened
}

// rawTarget listens at a port of the target's device and takes one connection.
func (w *world) rawTarget(port uint16, answer func(r *raw, ev *rdmacm.Event) error) <-chan *raw {
	w.Helper()
	got := make(chan *raw, 1)
	var r *raw
	l, err := w.cm.NewID(func(id *rdmacm.ID, ev *rdmacm.Event) error {
		if ev.Type != rdmacm.ConnectRequest {
			r.events <- *ev
			return nil
		}
		r = newRaw(w.TB, w.dev, w.shards[ev.Conn.Vector()], ev.Conn)
		if answer != nil {
			err := answer(r, ev)
			got <- r
			return err
		}
		if err := ev.Conn.Accept(r.qp, rdmacm.ConnParam{InitiatorDepth: 4, PrivateData: nvme.RDMACMReply{CRQSIZE: 1}.AppendTo(nil)}); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		got <- r
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	addr := portal
	if err := l.Listen(w.dev.Provider(), withPort(addr, port)); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := l.Destroy(); err != nil {
			w.Error(err)
		}
	})
	return got
}
