package host

import (
	"context"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
)

// A controller that reports Asymmetric Namespace Access says which groups of
// namespaces it has a path to, and asks for that to be read again when it
// changes. What commands do does not depend on it: the controller refuses those
// that it has no path for, and they are tried again after a while (awaitPath), or
// as soon as it says that something has changed.

// maxANAGroups bounds what a controller can make us read.
const maxANAGroups = 1 << 12

// readANA reads the states of the groups, without their namespaces, each of which
// names its group itself [Base, Asymmetric Namespace Access log page]. What a
// controller says wrongly of them is worth a warning only.
func (s *session) readANA(ctx context.Context) error {
	id := &s.info.Identify
	if id.CMIC&nvme.CMICANA == 0 || s.ctrl.cfg.discovery() {
		return nil
	}
	states, err := s.anaGroups(ctx, id.NANAGRPID)
	switch {
	case err == nil:
		s.ctrl.ana.Store(&states)
	case ctx.Err() != nil || s.ctx.Err() != nil:
		return err
	default:
		s.ctrl.warn(fmt.Errorf("host: ANA log of %s ignored: %w", s.ctrl.cfg.NQN, err))
	}
	return nil
}

func (s *session) anaGroups(ctx context.Context, groups uint32) (map[uint32]nvme.ANAState, error) {
	size := uint64(nvme.ANALogHeaderSize) + uint64(groups)*nvme.ANAGroupSize
	if groups > maxANAGroups || size > uint64(s.info.MaxData) {
		return nil, fmt.Errorf("NANAGRPID %d, at most %d and %d bytes of log page", groups, maxANAGroups, s.info.MaxData)
	}
	data := make([]byte, size)
	g := nvme.GetLogPageCommand{NSID: nvme.NSIDBroadcast, LID: nvme.LogANA, LSP: nvme.ANALogRGO}
	if err := s.logPage(ctx, g, data); err != nil {
		return nil, err
	}
	var log nvme.ANALog
	if err := log.Parse(data); err != nil {
		return nil, err
	}
	states := make(map[uint32]nvme.ANAState, len(log.Groups))
	for _, g := range log.Groups {
		states[g.ID] = g.State
	}
	return states, nil
}

// anaChanged reads the states again, and has those commands tried again that the
// controller had no path for.
func (s *session) anaChanged() error {
	if err := s.readANA(s.ctx); err != nil {
		return err
	}
	for _, q := range s.ctrl.queues {
		_ = q.shard.Run(q.pathChanged)
	}
	return nil
}

// ANAState returns the state of the namespace's ANA group as the controller said
// last: [nvme.ANAOptimized] if it does not report such states.
func (n *Namespace) ANAState() nvme.ANAState {
	if states := n.ctrl.ana.Load(); states != nil {
		if s, ok := (*states)[n.format.Load().info.Identify.ANAGRPID]; ok {
			return s
		}
	}
	return nvme.ANAOptimized
}
