package fabric

import (
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// DefaultPort is the port of NVMe/RDMA.
const DefaultPort = 4420

// RoCE is NVMe/RDMA over RoCEv2 in software, at one local address.
type RoCE struct {
	Device *roce.Device
	node   *Node
}

// OpenRoCE opens a device. cfg.Shard is the node's, if nil. The node closes it.
func (n *Node) OpenRoCE(cfg roce.Config) (*RoCE, error) {
	if err := n.begin(); err != nil {
		return nil, fmt.Errorf("fabric: open RoCE: %w", err)
	}
	defer n.making.Done()
	if cfg.Shard == nil {
		cfg.Shard = n.shard
	}
	dev, err := roce.Open(cfg)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	r := &RoCE{dev, n}
	n.mu.Lock()
	n.devices = append(n.devices, r)
	n.mu.Unlock()
	return r, nil
}

// OpenRoCETo opens a device for a host, on the local address that leads to
// remote. cfg.Addr, if valid, is that address; otherwise [roce.ChooseAddr]
// names it.
func (n *Node) OpenRoCETo(remote netip.Addr, cfg roce.Config) (*RoCE, error) {
	if !cfg.Addr.IsValid() {
		var err error
		if cfg.Addr, err = roce.ChooseAddr(remote); err != nil {
			return nil, fmt.Errorf("fabric: %w", err)
		}
	}
	return n.OpenRoCE(cfg)
}

// Listen makes a listener. Of cfg it needs Core; it fills in Addr (the device's
// address, DefaultPort), CM, Provider, Shards and Gate as far as they are not
// set. The node shuts it down.
func (r *RoCE) Listen(cfg rdma.Config) (*rdma.Listener, error) {
	n := r.node
	if err := n.begin(); err != nil {
		return nil, fmt.Errorf("fabric: listen: %w", err)
	}
	defer n.making.Done()
	addr, port := cfg.Addr.Addr(), cfg.Addr.Port()
	if !addr.IsValid() {
		addr = r.Device.Addr().Addr()
	}
	if port == 0 {
		port = DefaultPort
	}
	cfg.Addr = netip.AddrPortFrom(addr, port)
	if cfg.Provider == nil {
		cfg.Provider = r.Device
	}
	if cfg.Shards == nil {
		cfg.Shards = []*shard.Shard{n.shard}
	}
	orDefault(&cfg.CM, n.cm)
	orDefault(&cfg.Gate, n.gate)
	ln, err := rdma.Listen(cfg)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	n.add(rdmaListener{ln})
	return ln, nil
}

// Dialer returns a dialer for hosts.
func (r *RoCE) Dialer() (transport.Dialer, error) {
	d, err := rdma.NewDialer(rdma.DialerConfig{CM: r.node.cm, Provider: r.Device, Shards: []*shard.Shard{r.node.shard}})
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	return d, nil
}

type rdmaListener struct{ *rdma.Listener }

func (l rdmaListener) stats() (buffers, mrs int) {
	s := l.Stats()
	return s.Buffers, s.MRs
}
