package target_test

import (
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// Every refusal of a Connect, with its status and result, as Linux hosts know
// them from Linux targets.
func TestConnectRefused(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	private := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-private", Hosts: []string{otherNQN}})
	full := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-full", AllowAnyHost: true, CNTLIDMin: 7, CNTLIDMax: 7})
	for _, s := range []*target.Subsystem{private, full} {
		if err := w.port.Link(s); err != nil {
			t.Fatal(err)
		}
	}
	w.subsystem(target.SubsystemConfig{NQN: subNQN + "-elsewhere", AllowAnyHost: true}) // linked nowhere
	h := w.enable(nil)
	fullHost := w.connect(func(a *connectArgs) { a.SUBNQN = full.NQN() })
	disc := w.connect(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
	h.io(2, nil)

	const inData = 1 << 16
	tests := []struct {
		name   string
		io     bool
		change func(*connectArgs)
		status nvme.Status
		result uint64
	}{
		{"admin: RECFMT", false, func(a *connectArgs) { a.RecFmt = 1 }, 0x4180, 0},
		{"admin: CNTLID", false, func(a *connectArgs) { a.CNTLID = 1 }, 0x4182, 16 | inData},
		{"admin: unknown subsystem", false, func(a *connectArgs) { a.SUBNQN += "x" }, 0x4182, 256 | inData},
		{"admin: no subsystem", false, func(a *connectArgs) { a.SUBNQN = "" }, 0x4182, 256 | inData},
		{"admin: subsystem on no port", false, func(a *connectArgs) { a.SUBNQN += "-elsewhere" }, 0x4182, 256 | inData},
		{"admin: no host", false, func(a *connectArgs) { a.HOSTNQN = "" }, 0x4182, 512 | inData},
		{"admin: host not allowed", false, func(a *connectArgs) { a.SUBNQN = private.NQN() }, 0x4184, 512 | inData},
		{"admin: no CNTLID free", false, func(a *connectArgs) { a.SUBNQN = full.NQN() }, 0x4181, 0},
		{"admin: SQSIZE 0", false, func(a *connectArgs) { a.SQSize = 0 }, 0x4182, 44},
		{"admin: SQSIZE beyond the fabric's", false, func(a *connectArgs) { a.SQSize = 32 }, 0x4182, 44},
		{"io: RECFMT", true, func(a *connectArgs) { a.RecFmt = 1 }, 0x4180, 0},
		{"io: unknown CNTLID", true, func(a *connectArgs) { a.CNTLID = 99 }, 0x4182, 16 | inData},
		{"io: CNTLID of another subsystem", true, func(a *connectArgs) { a.CNTLID = 7 }, 0x4182, 16 | inData},
		{"io: CNTLID dynamic", true, func(a *connectArgs) { a.CNTLID = 0xFFFF }, 0x4182, 16 | inData},
		{"io: CNTLID of another host", true, func(a *connectArgs) { a.HOSTNQN = otherNQN }, 0x4182, 16 | inData},
		{"io: another host identifier", true, func(a *connectArgs) { a.HostID[3]++ }, 0x4182, 16 | inData},
		{"io: unknown subsystem", true, func(a *connectArgs) { a.SUBNQN += "x" }, 0x4182, 256 | inData},
		{"io: QID beyond the most", true, func(a *connectArgs) { a.QID = 5 }, 0x4182, 42},
		{"io: SQSIZE 0", true, func(a *connectArgs) { a.SQSize = 0 }, 0x4182, 44},
		{"io: SQSIZE beyond MQES", true, func(a *connectArgs) { a.SQSize = 128 }, 0x4182, 44},
		{"io: SQSIZE beyond the fabric's", true, func(a *connectArgs) { a.SQSize = 150 }, 0x4182, 44},
		{"io: QID taken", true, func(a *connectArgs) { a.QID = 2 }, 0x400C, 0},
		{"io: not enabled", true, func(a *connectArgs) { a.SUBNQN, a.CNTLID = full.NQN(), fullHost.cntlid }, 0x400C, 0},
		{"io: of a discovery controller", true, func(a *connectArgs) { a.SUBNQN, a.CNTLID = nvme.DiscoveryNQN, disc.cntlid }, 0x4182, 42},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := adminConnect()
			if tt.io {
				a = ioConnect(h.cntlid, 1)
			}
			tt.change(&a)
			q := w.open(func(p *transport.QueueParam) {
				if tt.io {
					p.Depth = 150
				}
			})
			got := q.connect(a)
			if got.Status != tt.status || got.Result != tt.result || got.SQHD != 0 {
				t.Errorf("status %#04x, result %#x, SQHD %d; want %#04x, %#x, 0",
					uint16(got.Status), got.Result, got.SQHD, uint16(tt.status), tt.result)
			}
			// It can be tried again on the same queue.
			a = adminConnect()
			if got := q.connect(a); got.Status != nvme.Success {
				t.Errorf("then a good one: %v", got.Status)
			}
			q.hangUp()
		})
	}

	t.Run("SGL length", func(t *testing.T) {
		q := w.open(nil)
		for _, n := range []int{0, 1023, 1025, 4096} {
			q.fails(adminConnect().command(), make([]byte, n), nvme.SGLInvalidDataLength.WithDNR())
		}
		q.hangUp()
	})
	t.Run("another QID than the fabric's", func(t *testing.T) {
		for qid, args := range map[uint16]connectArgs{3: adminConnect(), 0: ioConnect(h.cntlid, 1)} {
			q := w.open(func(p *transport.QueueParam) { p.QID, p.AnyQID = qid, false })
			if got := q.connect(args); got.Status != 0x4182 || got.Result != 42 {
				t.Errorf("queue %d: %v, result %d", qid, got.Status, got.Result)
			}
			q.hangUp()
		}
	})
	t.Run("another port than the admin queue's", func(t *testing.T) {
		first := w.port
		defer func() { w.port = first }()
		var err error
		if w.port, err = w.target.AddPort(target.PortConfig{ID: 2}); err != nil {
			t.Fatal(err)
		}
		if err := w.port.Link(w.sub); err != nil {
			t.Fatal(err)
		}
		q := w.open(nil)
		if got := q.connect(ioConnect(h.cntlid, 1)); got.Status != 0x4182 || got.Result != 16|inData {
			t.Errorf("%v, result %#x", got.Status, got.Result)
		}
		q.hangUp()
	})
	t.Run("not Connect", func(t *testing.T) {
		q := w.open(nil)
		invalid := nvme.InvalidOpcode.WithDNR()
		q.fails(propGet(nvme.PropertyCAP), nil, invalid)
		q.fails(identify(nvme.CNSController, 0), make([]byte, 4096), invalid)
		q.fails(rw(nvme.IORead, 1, 0, 0), make([]byte, 512), invalid)
		q.fails(cmd(nvme.Command.PutDisconnect), nil, invalid)
		q.hangUp()
	})
	t.Run("twice", func(t *testing.T) {
		busy := nvme.ConnectControllerBusy.WithDNR()
		for _, q := range []*queue{h.admin, h.io(1, nil)} {
			a := adminConnect()
			q.fails(a.command(), a.ConnectData.AppendTo(nil), busy)
			q.fails(a.command(), nil, busy)
		}
	})
	t.Run("twice at once", func(t *testing.T) {
		q := w.open(nil)
		q.late = true
		a := adminConnect()
		first := q.send(a.command(), a.ConnectData.AppendTo(nil))
		second := q.send(a.command(), a.ConnectData.AppendTo(nil))
		q.serve()
		<-first.done
		<-second.done
		if first.Completion.Status != nvme.Success || second.Completion.Status != 0x4181 {
			t.Errorf("%v and %v", first.Completion.Status, second.Completion.Status)
		}
		q.hangUp()
	})
}

// Linux targets refuse the properties below and answer the others.
func TestPropertyErrors(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.connect(nil)
	bad := nvme.InvalidField.WithDNR()
	get := func(p nvme.Property, attrib uint8) nvme.Command {
		c := propGet(p)
		c[nvme.OffAttrib] = attrib
		return c
	}
	for _, c := range []nvme.Command{
		get(nvme.PropertyCAP, 0), get(nvme.PropertyVS, 1), get(nvme.PropertyCSTS, 1), get(nvme.PropertyCC, 2),
		get(4, 0), get(nvme.PropertyNSSR, 0), get(nvme.PropertyCRTO, 0), get(0x1000, 1),
		propSet(nvme.PropertyVS, 0), propSet(nvme.PropertyNSSR, nvme.NSSRReset), propSet(nvme.PropertyCAP, 0),
	} {
		h.admin.fails(c, nil, bad)
	}
	h.admin.fails(propGet(nvme.PropertyCAP), make([]byte, 8), nvme.SGLInvalidDataLength.WithDNR())

	for _, cc := range []uint64{
		0x450001, 0x360001, 0x460081, 0x460801, 0x460061, 0x460071, // sizes, MPS, AMS, CSS
	} {
		h.admin.ok(propSet(nvme.PropertyCC, cc), nil)
		if csts := h.csts(); csts.RDY() || !csts.CFS() {
			t.Errorf("CC %#x: CSTS %#x, want CFS alone", cc, uint32(csts))
		}
		h.admin.fails(identify(nvme.CNSController, 0), make([]byte, 4096), nvme.CommandSequenceError.WithDNR())
		h.admin.ok(propSet(nvme.PropertyCC, 0), nil)
	}
	h.admin.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
	if csts := h.csts(); csts != 1 {
		t.Errorf("CSTS %#x, want RDY", uint32(csts))
	}
	if cc := h.admin.ok(propGet(nvme.PropertyCC), nil).Result; cc != ccEnabled {
		t.Errorf("CC %#x", cc)
	}
}

// Before CC.EN everything but Fabrics commands is refused.
func TestNotReady(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.connect(nil)
	seq := nvme.CommandSequenceError.WithDNR()
	h.admin.fails(identify(nvme.CNSController, 0), make([]byte, 4096), seq)
	h.admin.fails(cmd(nvme.Command.PutKeepAlive), nil, seq)
	h.admin.fails(cmd(nvme.Command.PutAsyncEventRequest), nil, seq)
	h.admin.fails(setFeature(nvme.FeatureNumberOfQueues, 0), nil, seq)
}

// SQHD goes round the entries of the queue, which has one more than SQSIZE
// says.
func TestSQHD(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	q := w.open(nil)
	a := ioConnect(h.cntlid, 1)
	a.SQSize = 4
	for i, want := range []uint16{1, 2, 3, 4, 0, 1, 2} {
		var got nvme.Completion
		if i == 0 {
			got = q.connect(a)
		} else {
			got = q.ok(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		}
		if got.SQHD != want || got.SQID != 0 {
			t.Errorf("completion %d: SQHD %d, SQID %d, want %d, 0", i, got.SQHD, got.SQID, want)
		}
	}
	q = w.open(nil)
	a = ioConnect(h.cntlid, 2)
	a.CATTR = nvme.CATTRDisableSQFlow
	if got := q.connect(a); got.SQHD != 0xFFFF {
		t.Errorf("Connect without flow control: SQHD %#x", got.SQHD)
	}
	if got := q.do(rw(nvme.IORead, 9, 0, 0), nil); got.SQHD != 0xFFFF || got.Status.OK() {
		t.Errorf("error without flow control: SQHD %#x, %v", got.SQHD, got.Status)
	}
}
