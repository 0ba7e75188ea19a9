package nvme

import (
	"errors"
	"testing"
)

func TestRDMACMRequest(t *testing.T) {
	b := golden(t, "rdma_cm_request_io")
	var r RDMACMRequest
	want := RDMACMRequest{QID: 1, HRQSIZE: 128, HSQSIZE: 127, CNTLID: 1}
	if err := r.Parse(b); err != nil || r != want {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	same(t, "appended", want.AppendTo(nil), b)

	// InfiniBand and RoCE pad the private data; what follows is not ours.
	if err := r.Parse(append(b, make([]byte, 24)...)); err != nil || r != want {
		t.Errorf("padded: %+v, %v", r, err)
	}
	b[0] = 1
	if err := r.Parse(b); !errors.Is(err, RDMACMInvalidRecFmt) {
		t.Errorf("RECFMT 1: %v", err)
	}
	if err := r.Parse(b[:31]); !errors.Is(err, RDMACMInvalidLength) {
		t.Errorf("31 bytes: %v", err)
	}
}

func TestRDMACMReplyAndReject(t *testing.T) {
	b := RDMACMReply{CRQSIZE: 0x0102}.AppendTo(nil)
	same(t, "reply", b[:4], []byte{0, 0, 2, 1})
	var p RDMACMReply
	if err := p.Parse(b); err != nil || p.CRQSIZE != 0x0102 {
		t.Errorf("%+v, %v", p, err)
	}
	b = RDMACMReject{Status: RDMACMNoResources}.AppendTo(nil)
	same(t, "reject", b, []byte{0, 0, 6, 0})
	var j RDMACMReject
	if err := j.Parse(b); err != nil || j.Status != RDMACMNoResources {
		t.Errorf("%+v, %v", j, err)
	}
	if got := j.Status.Error(); got != "nvme: RDMA connection refused: no resources" {
		t.Errorf("%q", got)
	}
	if got := RDMACMStatus(0x1234).String(); got != "NVMe/RDMA status 4660" {
		t.Errorf("%q", got)
	}
	for s := RDMACMInvalidLength; s <= RDMACMInvalidCNTLID; s++ {
		if s.String() == "" {
			t.Errorf("status %d has no name", uint16(s))
		}
	}
}

func FuzzRDMACM(f *testing.F) {
	f.Add(golden(f, "rdma_cm_request_io"))
	f.Add(RDMACMReject{RDMACMInvalidHSQSize}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q, q2 RDMACMRequest
		if err := q.Parse(b); err == nil {
			if err := q2.Parse(q.AppendTo(nil)); err != nil || q2 != q {
				t.Errorf("%+v, %v, want %+v", q2, err, q)
			}
		}
		var p RDMACMReply
		if p.Parse(b) == nil {
			same(t, "reply", p.AppendTo(nil)[:4], b[:4])
		}
		var j RDMACMReject
		if j.Parse(b) == nil {
			same(t, "reject", j.AppendTo(nil), b[:4])
			_ = j.Status.Error()
		}
	})
}
