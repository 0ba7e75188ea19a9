package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// How a host's memory is divided, and how deep its queues are.
const (
	hostData  = 4 << 20 // of reads and writes
	connectAt = hostData
	hostMem   = connectAt + nvme.ConnectDataSize

	queueDepth = 32
)

// A peer is a host that does what the script says, and nothing else: no keep
// alive, no answer to a loss.
type peer struct {
	w      *world
	name   string
	addr   netip.Addr
	hostID nvme.UUID
	end    hostEnd
	mem    []byte
	byQID  map[uint16]peerQueue

	cntlid  uint16
	pending []*ioCommand // of transfers
}

// A hostEnd is a peer's end of a fabric.
type hostEnd interface {
	// dial asks for a connection and does not wait for it.
	dial(qid uint16) (peerQueue, error)
	// hangUp takes leave of the target.
	hangUp()
	// held is how many queues there still are.
	held() int
	// close ends what is left, and finds out whether all of it ends.
	close() error
}

// A peerQueue is one connection of a peer.
type peerQueue interface {
	// waitDialed waits until the connection is made, or why it is not.
	waitDialed(d time.Duration) error
	// send sends a command, with n bytes of the peer's memory, and does not wait
	// for its end.
	send(put func(nvme.Command), at, n int) *ioCommand
}

// An ioCommand is a command that was sent.
type ioCommand struct {
	done chan struct{}
	cqe  nvme.Completion
	err  error // the queue's end
}

func (w *world) newPeer(name string, addr netip.Addr, n byte) (_ *peer, err error) {
	p := &peer{w: w, name: name, addr: addr, byQID: make(map[uint16]peerQueue), mem: make([]byte, hostMem)}
	p.hostID[6], p.hostID[8], p.hostID[15] = 0x40, 0x80, n
	if w.loop {
		p.end = w.newLoopHost(p)
		return p, nil
	}
	p.end, err = w.newRDMAHost(p)
	return p, err
}

// dial asks for a connection and does not wait for it.
func (p *peer) dial(qid uint16) error {
	q, err := p.end.dial(qid)
	if err == nil {
		p.byQID[qid] = q
	}
	return err
}

// queue returns the queue of a QID.
func (p *peer) queue(qid uint16) peerQueue {
	if q := p.byQID[qid]; q != nil {
		return q
	}
	return noQueue{}
}

// A noQueue has never been dialed.
type noQueue struct{}

func (noQueue) waitDialed(time.Duration) error { return errLeft }

func (noQueue) send(func(nvme.Command), int, int) *ioCommand { return notSent(errLeft) }

// notSent is a command that could not be.
func notSent(why error) *ioCommand {
	c := &ioCommand{done: make(chan struct{}), err: fmt.Errorf("nothing can be sent: %w", why)}
	close(c.done)
	return c
}

// commandTime bounds the wait for a command.
const commandTime = 30 * time.Second

func (c *ioCommand) wait() error {
	select {
	case <-c.done:
	case <-time.After(commandTime):
		return fmt.Errorf("no answer in %v", commandTime)
	}
	if c.err != nil {
		return c.err
	}
	if !c.cqe.Status.OK() {
		return c.cqe.Status.Base()
	}
	return nil
}

// cntlidOf is what a connection of the QID says of its controller.
func (p *peer) cntlidOf(qid uint16) uint16 {
	if qid == 0 {
		return 0
	}
	return p.cntlid
}

// connect sends Connect.
func (p *peer) connect(qid uint16, nqn string) *ioCommand {
	cntlid, kato := uint16(nvme.CNTLIDDynamic), uint32(p.w.keepAlive/time.Millisecond)
	if qid != 0 {
		cntlid, kato = p.cntlid, 0
	}
	nvme.ConnectData{HostID: p.hostID, CNTLID: cntlid, SUBNQN: nqn, HOSTNQN: nvme.UUIDNQN(p.hostID)}.AppendTo(p.mem[connectAt:connectAt])
	return p.queue(qid).send(func(c nvme.Command) {
		c.PutConnect(nvme.ConnectCommand{QID: qid, SQSize: queueDepth - 1, KATO: kato})
	}, connectAt, nvme.ConnectDataSize)
}

func enabled() nvme.CC {
	return nvme.CC(0).WithIOSQES(nvme.IOSQES64).WithIOCQES(nvme.IOCQES16).WithEN(true)
}

// connectAdmin brings the admin queue, which is dialed, to where I/O queues may
// come.
func (p *peer) connectAdmin() error {
	if err := p.queue(0).waitDialed(commandTime); err != nil {
		return err
	}
	c := p.connect(0, subNQN)
	if err := c.wait(); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p.cntlid = nvme.ConnectResult(c.cqe.DW0()).CNTLID()
	if err := p.setCC(enabled()).wait(); err != nil {
		return fmt.Errorf("set CC: %w", err)
	}
	return nil
}

func (p *peer) setCC(cc nvme.CC) *ioCommand {
	return p.queue(0).send(func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, uint64(cc)) }, 0, 0)
}

// csts asks for the controller's status.
func (p *peer) csts() (nvme.CSTS, error) {
	c := p.queue(0).send(func(c nvme.Command) { c.PutPropertyGet(nvme.PropertyCSTS) }, 0, 0)
	err := c.wait()
	return nvme.CSTS(c.cqe.DW0()), err
}

// reserveIO asks for one I/O queue.
func (p *peer) reserveIO() error {
	if err := p.queue(0).send(func(c nvme.Command) {
		c.PutSetFeatures(nvme.FeaturesCommand{FID: nvme.FeatureNumberOfQueues, CDW11: uint32(nvme.MakeNumberOfQueues(0))})
	}, 0, 0).wait(); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	return nil
}

// connectIO makes an I/O queue.
func (p *peer) connectIO() error {
	if err := p.reserveIO(); err != nil {
		return err
	}
	if err := p.dial(1); err != nil {
		return err
	}
	if err := p.queue(1).waitDialed(commandTime); err != nil {
		return err
	}
	return p.connect(1, subNQN).wait()
}

// io sends a command that moves n bytes to or from the disk, at a place of the
// nth command's own.
func (p *peer) io(op nvme.IOOpcode, nth, n int) *ioCommand {
	return p.queue(1).send(func(c nvme.Command) {
		c.PutIO(op, 1, uint64(nth*n/blockSize), uint16(n/blockSize-1), 0)
	}, nth*n, n)
}

// verifiedIO writes and reads back.
func (p *peer) verifiedIO() error {
	const n = 16 << 10
	for i := range n {
		p.mem[i] = byte(i*7) ^ byte(p.hostID[15])
	}
	if err := p.io(nvme.IOWrite, 0, n).wait(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	clear(p.mem[:n])
	if err := p.io(nvme.IORead, 0, n).wait(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for i := range n {
		if want := byte(i*7) ^ byte(p.hostID[15]); p.mem[i] != want {
			return fmt.Errorf("byte %d is %#02x, written was %#02x", i, p.mem[i], want)
		}
	}
	return nil
}
