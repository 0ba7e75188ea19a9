package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// Bounds of what a controller can make us remember.
const (
	maxNamespaces = 1 << 16
	maxWarnings   = 16 // of one scan
)

func isCommandError(err error) bool {
	_, ok := errors.AsType[*CommandError](err)
	return ok
}

// scan identifies the namespaces that are attached, into s.found. One that
// cannot be used is left out with a warning; one that was known and fails only
// for now stays as it was.
func (s *session) scan(ctx context.Context) error {
	found := make(map[uint32]*format)
	if s.ctrl.cfg.discovery() || s.info.Identify.CNTRLTYPE == nvme.ControllerDiscovery {
		s.found = found
		return nil
	}
	nsids, err := s.activeNamespaces(ctx)
	if err != nil {
		return err
	}
	ignored := 0
	for _, nsid := range nsids {
		f, err := s.identifyNamespace(ctx, nsid)
		switch {
		case err != nil && (s.ctx.Err() != nil || ctx.Err() != nil || errors.Is(err, ErrLost) || errors.Is(err, shard.ErrClosed)):
			// A loss says nothing of the namespace, and ends commands before it ends
			// the session.
			return err
		case err != nil:
			if ce, ok := errors.AsType[*CommandError](err); ok && !ce.Status.DNR() {
				// It may be back at the next scan; until then it is what it was.
				if n := s.ctrl.known(nsid); n != nil {
					found[nsid] = n.format.Load()
				}
			}
			if ignored++; ignored <= maxWarnings {
				s.ctrl.warn(fmt.Errorf("host: namespace %d of %s ignored: %w", nsid, s.ctrl.cfg.NQN, err))
			}
		case f != nil:
			found[nsid] = f
		}
	}
	if ignored > maxWarnings {
		s.ctrl.warn(fmt.Errorf("host: %d namespaces of %s ignored in all", ignored, s.ctrl.cfg.NQN))
	}
	s.found = found
	return nil
}

func (s *session) activeNamespaces(ctx context.Context) ([]uint32, error) {
	var all []uint32
	for last := uint32(0); ; {
		data, err := s.identify(ctx, nvme.IdentifyCommand{NSID: last, CNS: nvme.CNSActiveNamespaces})
		if err != nil {
			return nil, err
		}
		page, err := nvme.ParseNamespaceList(data)
		if err != nil {
			return nil, err
		}
		if len(page) > 0 && page[0] <= last {
			return nil, fmt.Errorf("host: Active Namespace ID list: NSID %d after %d", page[0], last)
		}
		all = append(all, page...)
		if len(page) < nvme.MaxNamespaceList {
			return all, nil
		}
		if len(all) > maxNamespaces {
			return nil, fmt.Errorf("host: Active Namespace ID list: more than %d namespaces", maxNamespaces)
		}
		last = page[len(page)-1]
	}
}

// identifyNamespace returns nil if the namespace has gone meanwhile.
func (s *session) identifyNamespace(ctx context.Context, nsid uint32) (*format, error) {
	var ids nvme.NamespaceDescriptors
	iocs := s.cc.CSS() == nvme.CCCSSIOCS
	if s.info.VS >= nvme.Version1_3 || iocs {
		data, err := s.identify(ctx, nvme.IdentifyCommand{NSID: nsid, CNS: nvme.CNSNamespaceDescriptors})
		if err != nil {
			return nil, err
		}
		if err := ids.Parse(data); err != nil {
			return nil, err
		}
		if iocs && !ids.HasCSI {
			return nil, errors.New("no descriptor for CSI")
		}
		if ids.CSI != nvme.CSINVM {
			return nil, fmt.Errorf("command set %v is not supported", ids.CSI)
		}
	}
	data, err := s.identify(ctx, nvme.IdentifyCommand{NSID: nsid, CNS: nvme.CNSNamespace})
	if err != nil {
		return nil, err
	}
	var id nvme.IdentifyNamespace
	if err := id.Parse(data); err != nil {
		return nil, err
	}
	if id.NCAP == 0 {
		return nil, nil
	}
	return makeFormat(nsid, &id, ids, s.info.MaxData)
}

// known returns the namespace that the controller has, or nil.
func (c *Controller) known(nsid uint32) *Namespace {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.namespaces[nsid]
}

// setNamespaces makes what s found the controller's namespaces.
func (c *Controller) setNamespaces(s *session) {
	c.mu.Lock()
	changed := false
	for nsid, n := range c.namespaces {
		f := s.found[nsid]
		if f == nil || !f.same(n.format.Load()) {
			n.gone.Store(true)
			delete(c.namespaces, nsid)
			changed = true
		}
	}
	for nsid, f := range s.found {
		n := c.namespaces[nsid]
		if n == nil {
			n = &Namespace{ctrl: c, nsid: nsid, partial: make(chan struct{}, 1)}
			c.namespaces[nsid] = n
			changed = true
		} else if n.format.Load().info != f.info {
			changed = true
		}
		n.format.Store(f)
	}
	fn := c.cfg.Events.NamespacesChanged
	told := changed && fn != nil && c.info != nil // not at the first connect
	c.mu.Unlock()
	if told {
		c.events.tell(fn)
	}
}
