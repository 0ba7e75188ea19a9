package rdma

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
)

func private(recfmt, qid, hrqsize, hsqsize uint16) []byte {
	b := nvme.RDMACMRequest{QID: qid, HRQSIZE: hrqsize, HSQSIZE: hsqsize}.AppendTo(nil)
	binary.LittleEndian.PutUint16(b, recfmt)
	return b
}

func TestParseOffer(t *testing.T) {
	for _, c := range []struct {
		name    string
		private []byte
		ird     uint8
		want    nvme.RDMACMStatus
		offer   offer
	}{
		{"admin", private(0, 0, 32, 31), 16, 0, offer{0, 0, 32, 16}},
		{"I/O", private(0, 3, 128, 127), 255, 0, offer{3, 0, 128, 255}},
		{"least", private(0, 1, 2, 1), 1, 0, offer{1, 0, 2, 1}},
		{"room for more responses", private(0, 1, 65535, 7), 1, 0, offer{1, 0, 8, 1}},
		{"padded, as on RoCE", append(private(0, 1, 8, 7), make([]byte, 24)...), 1, 0, offer{1, 0, 8, 1}},
		{"none", nil, 16, nvme.RDMACMInvalidLength, offer{}},
		{"short", private(0, 0, 32, 31)[:31], 16, nvme.RDMACMInvalidLength, offer{}},
		{"record format", private(1, 0, 32, 31), 16, nvme.RDMACMInvalidRecFmt, offer{}},
		{"HSQSIZE 0", private(0, 1, 32, 0), 16, nvme.RDMACMInvalidHSQSize, offer{}},
		{"admin HSQSIZE", private(0, 0, 33, 32), 16, nvme.RDMACMInvalidHSQSize, offer{}},
		{"I/O HSQSIZE", private(0, 1, 129, 128), 16, nvme.RDMACMInvalidHSQSize, offer{}},
		{"HSQSIZE 65535", private(0, 1, 65535, 65535), 16, nvme.RDMACMInvalidHSQSize, offer{}},
		{"HRQSIZE 0", private(0, 1, 0, 31), 16, nvme.RDMACMInvalidHRQSize, offer{}},
		{"HRQSIZE below HSQSIZE", private(0, 1, 31, 31), 16, nvme.RDMACMInvalidHRQSize, offer{}},
		{"IRD", private(0, 1, 32, 31), 0, nvme.RDMACMInvalidIRD, offer{}},
	} {
		got, err := parseOffer(&rdmacm.ConnParam{PrivateData: c.private, ResponderResources: c.ird}, 128)
		var s nvme.RDMACMStatus
		errors.As(err, &s)
		if s != c.want || got != c.offer {
			t.Errorf("%s: %+v, %v, want %+v, %v", c.name, got, err, c.offer, c.want)
		}
	}
}

func FuzzParseOffer(f *testing.F) {
	f.Add(private(0, 0, 32, 31), uint8(16), 128)
	f.Add(private(0, 7, 65535, 65535), uint8(0), 65535)
	f.Fuzz(func(t *testing.T, b []byte, ird uint8, most int) {
		o, err := parseOffer(&rdmacm.ConnParam{PrivateData: b, ResponderResources: ird}, most)
		if err != nil {
			var s nvme.RDMACMStatus
			if !errors.As(err, &s) {
				t.Errorf("%v has no status", err)
			}
			return
		}
		if o.depth < 2 || o.depth > max(most, adminQueueSize) || o.reads < 1 || o.reads > 255 {
			t.Errorf("offer %+v of at most %d", o, most)
		}
	})
}

// A refused host learns why, on the wire and in words, and nothing is left.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		wc     worldConfig
		req    rawRequest
		status nvme.RDMACMStatus
	}{
		{"length", worldConfig{}, rawRequest{nil, 4}, nvme.RDMACMInvalidHSQSize}, // padded with zeros on the wire
		{"record format", worldConfig{}, rawRequest{private(9, 0, 32, 31), 4}, nvme.RDMACMInvalidRecFmt},
		{"HSQSIZE", worldConfig{}, rawRequest{private(0, 0, 64, 63), 4}, nvme.RDMACMInvalidHSQSize},
		{"HRQSIZE", worldConfig{}, rawRequest{private(0, 1, 1, 63), 4}, nvme.RDMACMInvalidHRQSize},
		{"IRD", worldConfig{}, rawRequest{private(0, 1, 64, 63), 0}, nvme.RDMACMInvalidIRD},
		{"no queues", worldConfig{limits: admission.Config{Target: admission.Limits{Bytes: 1}}}, goodRequest(1, 32), nvme.RDMACMNoResources},
		{"no queues for admin", worldConfig{limits: admission.Config{Target: admission.Limits{Bytes: 1}}}, goodRequest(0, 32), nvme.RDMACMNoResources},
		{"port gone", worldConfig{core: func(c *testCore) { c.removed = true }}, goodRequest(1, 32), nvme.RDMACMNoResources},
		{"core refuses", worldConfig{core: func(c *testCore) { c.openErr = errors.New("no") }}, goodRequest(1, 32), nvme.RDMACMNoResources},
		{"core refuses with a status", worldConfig{core: func(c *testCore) { c.openErr = nvme.RDMACMInvalidQID }}, goodRequest(1, 32), nvme.RDMACMInvalidQID},
		{"never room", worldConfig{limits: admission.Config{Host: admission.Limits{Queues: 1}}}, goodRequest(0, 32), nvme.RDMACMNoResources},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.wc)
			r := w.rawHost(c.req)
			ev := r.event(rdmacm.Rejected)
			var rej nvme.RDMACMReject
			if err := rej.Parse(ev.Param.PrivateData); err != nil || ev.Status != rdmacm.RejConsumerDefined || rej.Status != c.status {
				t.Errorf("reason %d, status %v, %v; want %v", ev.Status, rej.Status, err, c.status)
			}
			var s nvme.RDMACMStatus
			if err := <-w.refused; c.wc.core == nil && (!errors.As(err, &s) || s != c.status) {
				t.Errorf("the target was told %v", err)
			}
		})
	}
}

func TestDialErrors(t *testing.T) {
	w := newWorld(t, worldConfig{limits: admission.Config{Target: admission.Limits{Queues: 1}}})
	dial := func(p transport.HostQueueParam) error {
		t.Helper()
		q, err := w.d.Dial(wctx(t), p)
		if err == nil {
			q.Disconnect()
			t.Fatalf("dialled %+v", p)
		}
		return err
	}
	var refused *transport.RefusedError

	p := w.param(1, 8)
	p.Remote = withPort(portal, 9)
	if err := dial(p); !errors.As(err, &refused) || refused.Listening || refused.Busy {
		t.Errorf("nobody listens: %v", err)
	}
	w.dial(1, 8)
	err := dial(w.param(2, 8))
	if !errors.As(err, &refused) || !refused.Listening || !refused.Busy || !errors.Is(err, nvme.RDMACMNoResources) ||
		!strings.Contains(err.Error(), "no resources (status 6)") {
		t.Errorf("full: %v", err)
	}
	err = dial(w.param(2, 1000))
	if !errors.As(err, &refused) || refused.Busy || !errors.Is(err, nvme.RDMACMInvalidHSQSize) ||
		!strings.Contains(err.Error(), "consumer defined, invalid HSQSIZE (status 4)") {
		t.Errorf("too deep: %v", err)
	}
	for want, mod := range map[string]func(p *transport.HostQueueParam){
		"depth 1":            func(p *transport.HostQueueParam) { p.Depth = 1 },
		"depth 65536":        func(p *transport.HostQueueParam) { p.Depth = 65536 },
		"work requests":      func(p *transport.HostQueueParam) { p.Depth = 60000 },
		"on an admin queue":  func(p *transport.HostQueueParam) { p.QID = 0 },
		"want target":        func(p *transport.HostQueueParam) { p.Shard = w.shards[0] },
		"is not an address":  func(p *transport.HostQueueParam) { p.Local = targetAddr },
		"in-capsule data of": func(p *transport.HostQueueParam) { p.InCapsule = -1 },
	} {
		p := w.param(2, 8)
		mod(&p)
		if err := dial(p); !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestListenErrors(t *testing.T) {
	w := newWorld(t, worldConfig{})
	good := w.l.cfg
	for want, mod := range map[string]func(c *Config){
		"in use":             func(*Config) {},
		"no provider":        func(c *Config) { c.Provider = nil },
		"are needed":         func(c *Config) { c.Gate = nil },
		"no port":            func(c *Config) { c.Addr = withPort(c.Addr, 0) },
		"0 shards for 1":     func(c *Config) { c.Shards = nil },
		"maximum queue size": func(c *Config) { c.MaxQueueSize = 1 },
		"inline data size":   func(c *Config) { c.InlineDataSize = 17 },
		"maximum data":       func(c *Config) { c.MaxData = 1 << 24; c.PoolSize = 1 << 30 },
		"pool of":            func(c *Config) { c.PoolSize = 1 },
		"RDMA READs of":      func(c *Config) { c.MaxReadSize = 1 },
		"SRQ of":             func(c *Config) { c.UseSRQ, c.SRQSize = true, 1<<16+1 },
		"not an address of":  func(c *Config) { c.Addr = withPort(portal, 1); c.Provider = w.hostDev.Provider() },
	} {
		cfg := good
		mod(&cfg)
		if l, err := Listen(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen: %v, want %q", err, want)
			if l != nil {
				_ = l.Close()
			}
		}
	}
}
