package fabric

import (
	"fmt"

	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
)

// Loop is the fabric within the node.
type Loop struct{ node *Node }

// Loop returns the fabric within the node: what listens there is reached by its
// Dialer, and by nobody else.
func (n *Node) Loop() Loop { return Loop{n} }

// Listen makes a listener. Of cfg it needs Core and Addr and fills in Shards
// and Gate if they are not set. The node shuts it down.
func (l Loop) Listen(cfg loop.Config) (*loop.Listener, error) {
	n := l.node
	if err := n.begin(); err != nil {
		return nil, fmt.Errorf("fabric: listen: %w", err)
	}
	defer n.making.Done()
	if cfg.Shards == nil {
		cfg.Shards = append(cfg.Shards, n.shard)
	}
	orDefault(&cfg.Gate, n.gate)
	ln, err := n.loop.Listen(cfg)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	n.add(loopListener{ln})
	return ln, nil
}

// Dialer returns a dialer for hosts.
func (l Loop) Dialer() transport.Dialer {
	d, _ := l.node.loop.NewDialer(l.node.shard) // fails without a shard only
	return d
}

type loopListener struct{ *loop.Listener }

func (l loopListener) stats() (buffers, mrs int) { return l.Stats().Pages, 0 }

func orDefault[T any](v **T, def *T) {
	if *v == nil {
		*v = def
	}
}
