package roce

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// Port is the UDP port on which every RoCEv2 peer receives.
const Port = udpPort

// Config describes a device to be.
type Config struct {
	// Shard runs the device. It may run others as well.
	Shard *shard.Shard

	// Addr is the local address, or unspecified for all of the machine's of its
	// family. Two devices of one machine need different addresses: see
	// [ChooseAddr]. Zero is the unspecified IPv4 address. A link-local address of
	// IPv6 has its interface for a zone.
	Addr netip.Addr

	// UDPPort is for peers that use another than [Port] too. Zero is Port.
	UDPPort uint16

	// Network carries the packets in place of UDP sockets; for tests.
	Network Network

	// MTU bounds the path MTU, in bytes of payload: 256 to 4096. Zero is 4096,
	// or less if the interface has less.
	MTU int

	// SocketBuffer is what is asked of the kernel for each direction, in bytes.
	// It grants what the machine's limits allow. Zero is 4 MiB.
	SocketBuffer int

	// NodeGUID is the node GUID. Zero: one by chance, new for each device, so
	// that a peer never takes us for our predecessor.
	NodeGUID uint64

	// Shared is what the device has in common with others of its shard; nil:
	// nothing. With it a device needs a tenth of the memory, and is slower where
	// it has much to send.
	Shared *Shared

	// NoGSO and NoGRO switch off sending and receiving many packets as one
	// (UDP_SEGMENT, UDP_GRO).
	NoGSO, NoGRO bool
}

// Sizes that a device offers.
const (
	maxWR     = 1 << 15
	maxSGE    = 64
	maxCQE    = 1 << 20
	maxRdAtom = 128
	maxRegion = 1 << 30
)

// A Device is RoCEv2 in software on a UDP socket. It implements
// [verbs.Device] and rdmacm.Provider.
type Device struct {
	cfg  Config
	port uint16
	guid uint64
	keys soft.Keys
	eng  *engine
	pds  atomic.Int64
	gone atomic.Bool // closed
	mtus *mtuCache
}

var _ verbs.Device = (*Device)(nil)

// Open makes a device. It must not be called on a shard.
func Open(cfg Config) (*Device, error) {
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.IPv4Unspecified()
	}
	addr, err := numbered(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("roce: open: %w", err)
	}
	cfg.Addr = addr
	if cfg.UDPPort == 0 {
		cfg.UDPPort = Port
	}
	if cfg.MTU == 0 {
		cfg.MTU = 4096
	}
	if mtuBytes(mtuCode(cfg.MTU)) != cfg.MTU {
		return nil, fmt.Errorf("roce: open: MTU %d is none of 256, 512, 1024, 2048 and 4096", cfg.MTU)
	}
	if cfg.SocketBuffer == 0 {
		cfg.SocketBuffer = 4 << 20
	}
	if cfg.NodeGUID == 0 {
		cfg.NodeGUID = newGUID()
	}
	alone := cfg.Shared == nil
	if alone {
		cfg.Shared = new(Shared)
	}
	d := &Device{cfg: cfg, port: cfg.UDPPort, guid: cfg.NodeGUID, mtus: &cfg.Shared.mtus}
	d.eng = newEngine(d, cfg.Shard)
	if !alone {
		d.eng.batch = newTxBatchOf(sharedBatch)
	}
	if runErr := cfg.Shard.Run(func() {
		if !alone {
			cfg.Shared.gather(cfg.Shard)
		}
		err = d.start()
	}); runErr != nil {
		err = runErr
	}
	if err != nil {
		return nil, fmt.Errorf("roce: open %v: %w", netip.AddrPortFrom(cfg.Addr, cfg.UDPPort), err)
	}
	return d, nil
}

// newGUID returns a node GUID by chance, locally administered.
func newGUID() uint64 {
	const local, group = 1 << 57, 1 << 56
	return rand.Uint64()&^group | local
}

func (d *Device) start() (err error) {
	e := d.eng
	if d.cfg.Network != nil {
		e.wire, err = newSimWire(e, d.cfg)
	} else {
		e.wire, err = newSocket(e, d.cfg)
	}
	if err != nil {
		return err
	}
	e.startCM()
	return nil
}

// Close ends the device. It fails if anything of it is still in use, and must
// not be called on a shard.
func (d *Device) Close() error {
	if n := d.pds.Load(); n > 0 {
		return fmt.Errorf("roce: close: %d protection domains: %w", n, errInUse)
	}
	if d.gone.Swap(true) {
		return nil
	}
	var err error
	if runErr := d.cfg.Shard.Run(func() { err = d.eng.close() }); runErr != nil {
		err = runErr
	}
	return err
}

// Addr returns the device's address and UDP port.
func (d *Device) Addr() netip.AddrPort { return netip.AddrPortFrom(d.cfg.Addr, d.port) }

// Stats returns what was counted so far.
func (d *Device) Stats() (s Stats) {
	_ = d.cfg.Shard.Run(func() {
		if w, ok := d.eng.wire.(*socket); ok {
			d.eng.stats.DropsReceive = w.drops()
		}
		s = d.eng.stats
		if d.eng.cm != nil {
			s.MADsStray = d.eng.cm.stray
		}
	})
	return s
}

// QPs returns how many queue pairs there are.
func (d *Device) QPs() (n int) {
	_ = d.cfg.Shard.Run(func() { n = d.eng.qps.count })
	return n
}

// MRs returns how many memory regions there are.
func (d *Device) MRs() int { return d.keys.Count() }

// Attr implements [verbs.Device].
func (d *Device) Attr() verbs.DeviceAttr {
	return verbs.DeviceAttr{
		Name:           "roce " + d.cfg.Addr.String(),
		NodeGUID:       d.guid,
		NumCompVectors: 1,
		MaxQPWR:        maxWR,
		MaxSGE:         maxSGE,
		MaxCQE:         maxCQE,
		MaxSRQWR:       maxWR,
		MaxQPRdAtom:    maxRdAtom,
		MaxQPInitRd:    maxRdAtom,
		MaxMRSize:      maxRegion,
		MaxFastRegLen:  maxRegion,
	}
}

// AllocPD implements [verbs.Device].
func (d *Device) AllocPD() (verbs.PD, error) {
	d.pds.Add(1)
	return &protectionDomain{dev: d}, nil
}

// A protectionDomain is a PD. Its identity is what keys are checked against.
type protectionDomain struct {
	dev   *Device
	users atomic.Int64 // what was made in it
	gone  atomic.Bool
}

func (p *protectionDomain) release() { p.users.Add(-1) }

func (p *protectionDomain) LocalDMALKey() (uint32, bool) { return soft.LocalDMALKey, true }

func (p *protectionDomain) RegMR(buf []byte, iova uint64, access verbs.Access) (verbs.MR, error) {
	if len(buf) > maxRegion {
		return nil, fmt.Errorf("roce: register %d bytes, at most %d", len(buf), maxRegion)
	}
	r, err := p.dev.keys.Register(p, buf, iova, access)
	if err != nil {
		return nil, err
	}
	p.users.Add(1)
	return &memoryRegion{r, p}, nil
}

func (p *protectionDomain) AllocMR(maxLen int) (verbs.MR, error) {
	if maxLen > maxRegion {
		return nil, fmt.Errorf("roce: region of %d bytes, at most %d", maxLen, maxRegion)
	}
	r, err := p.dev.keys.Alloc(p, maxLen)
	if err != nil {
		return nil, err
	}
	p.users.Add(1)
	return &memoryRegion{r, p}, nil
}

func (p *protectionDomain) CreateCQ(attr verbs.CQAttr) (verbs.CQ, error) {
	if attr.Vector != 0 || attr.Size < 1 || attr.Size > maxCQE || attr.Handler == nil {
		return nil, fmt.Errorf("roce: completion queue of %d entries on vector %d", attr.Size, attr.Vector)
	}
	p.users.Add(1)
	return &completionQueue{eng: p.dev.eng, pd: p, handler: attr.Handler, size: attr.Size}, nil
}

func (p *protectionDomain) CreateSRQ(attr verbs.SRQAttr) (verbs.SRQ, error) {
	if attr.Vector != 0 || attr.MaxWR < 1 || attr.MaxWR > maxWR || attr.MaxSGE < 1 || attr.MaxSGE > maxSGE {
		return nil, fmt.Errorf("roce: shared receive queue of %d receives of %d elements on vector %d", attr.MaxWR, attr.MaxSGE, attr.Vector)
	}
	p.users.Add(1)
	return &sharedRecvQueue{pd: p, queue: soft.NewRecvQueue(attr.MaxWR, attr.MaxSGE), maxSGE: attr.MaxSGE}, nil
}

func (p *protectionDomain) CreateQP(attr verbs.QPInitAttr) (verbs.QP, error) {
	sendCQ, ok1 := attr.SendCQ.(*completionQueue)
	recvCQ, ok2 := attr.RecvCQ.(*completionQueue)
	if !ok1 || !ok2 || sendCQ.eng != p.dev.eng || recvCQ.eng != p.dev.eng || sendCQ.gone || recvCQ.gone {
		return nil, errors.New("roce: create QP: no completion queues of this device")
	}
	if attr.MaxSendWR < 1 || attr.MaxSendWR > maxWR || attr.MaxSendSGE < 0 || attr.MaxSendSGE > maxSGE ||
		attr.MaxRecvWR < 0 || attr.MaxRecvWR > maxWR || attr.MaxRecvSGE < 0 || attr.MaxRecvSGE > maxSGE {
		return nil, fmt.Errorf("roce: create QP: %d sends of %d elements, %d receives of %d", attr.MaxSendWR, attr.MaxSendSGE, attr.MaxRecvWR, attr.MaxRecvSGE)
	}
	q := &queuePair{
		eng: p.dev.eng, pd: p, sendCQ: sendCQ, recvCQ: recvCQ, sigAll: attr.SQSigAll, event: attr.Event,
	}
	q.timer.Fn = q.req.expired
	if attr.SRQ != nil {
		if q.srq, ok1 = attr.SRQ.(*sharedRecvQueue); !ok1 || q.srq.pd != p || q.srq.gone {
			return nil, errors.New("roce: create QP: no shared receive queue of this domain")
		}
	} else {
		q.rqSGE = max(1, attr.MaxRecvSGE)
	}
	if err := q.eng.qps.add(q); err != nil {
		return nil, err
	}
	q.make(attr.MaxSendWR, max(1, attr.MaxSendSGE), max(1, attr.MaxRecvWR))
	if q.srq != nil {
		q.srq.users++
	}
	sendCQ.users++
	recvCQ.users++
	p.users.Add(1)
	return q, nil
}

func (p *protectionDomain) Dealloc() error {
	if n := p.users.Load(); n > 0 {
		return fmt.Errorf("roce: deallocate protection domain: %d objects: %w", n, errInUse)
	}
	if !p.gone.Swap(true) {
		p.dev.pds.Add(-1)
	}
	return nil
}

// A memoryRegion is an MR.
type memoryRegion struct {
	*soft.Region
	pd *protectionDomain
}

func (m *memoryRegion) Dereg() error {
	d := m.pd.dev
	if err := d.keys.Remove(m.Region); err != nil {
		return err
	}
	// Whoever looked it up before is on the shard: when that has come here,
	// nobody uses it any more.
	if err := d.cfg.Shard.Run(func() {}); err != nil && !errors.Is(err, shard.ErrClosed) {
		return err
	}
	m.pd.release()
	return nil
}
