package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/verbs/roce"
)

// OpenRoCEs opens a device at each of the addresses, for programs that are many
// hosts: what devices can share these share. Each has the node GUID that guid
// says for it. Of cfg, Addr, NodeGUID and Shared are not used. The node closes
// the devices, also those that were opened before an error.
func (n *Node) OpenRoCEs(addrs []netip.Addr, cfg roce.Config, guid func(i int) uint64) ([]*RoCE, error) {
	cfg.Shared = new(roce.Shared)
	seen := make(map[netip.Addr]bool)
	var all []*RoCE
	for i, a := range addrs {
		if a = a.Unmap(); seen[a] {
			return all, fmt.Errorf("fabric: open RoCE at %v: %w", a, errTwice)
		}
		seen[a] = true
		cfg.Addr, cfg.NodeGUID = a, guid(i)
		r, err := n.OpenRoCE(cfg)
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
	return all, nil
}

var errTwice = errors.New("a device is there already")
