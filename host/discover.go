package host

import (
	"context"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
)

// Bounds of reading the discovery log page.
const (
	maxDiscoveryReads   = 10
	maxDiscoveryEntries = 1 << 14
)

// Discover asks the discovery controller at cfg.Remote what can be connected to
// there: it connects, reads the discovery log page and disconnects. Of cfg it
// needs the Dialer and Remote, and HostNQN and HostID where subsystems are shown
// to those alone that may connect; an empty NQN is the well-known one.
func Discover(ctx context.Context, cfg Config) (*nvme.DiscoveryLog, error) {
	cfg.NQN = orDefault(cfg.NQN, nvme.DiscoveryNQN)
	c, err := Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	log, err := c.DiscoveryLog(ctx)
	if derr := c.Disconnect(ctx); err == nil {
		err = derr
	}
	if err != nil {
		return nil, err
	}
	return log, nil
}

// discoveryLog reads the header, for how long the page is, the entries, and then
// the header again: only if GENCTR is still the same do they belong together
// [Base, Discovery log page].
func (s *session) discoveryLog(ctx context.Context) (*nvme.DiscoveryLog, error) {
	var header nvme.DiscoveryHeader
	read := func(offset uint64, data []byte, rae bool) error {
		return s.logPage(ctx, nvme.GetLogPageCommand{LID: nvme.LogDiscovery, LPO: offset, RAE: rae}, data)
	}
	readHeader := func(rae bool) error {
		data := make([]byte, nvme.DiscoveryHeaderSize)
		if err := read(0, data, rae); err != nil {
			return err
		}
		return header.Parse(data)
	}
	for range maxDiscoveryReads {
		if err := readHeader(true); err != nil {
			return nil, err
		}
		first := header
		if first.RECFMT != 0 {
			return nil, fmt.Errorf("host: discovery log: RECFMT %d, want 0", first.RECFMT)
		}
		if first.NUMREC > maxDiscoveryEntries {
			return nil, fmt.Errorf("host: discovery log: %d entries, more than %d", first.NUMREC, maxDiscoveryEntries)
		}
		log := &nvme.DiscoveryLog{GENCTR: first.GENCTR, Entries: make([]nvme.DiscoveryEntry, first.NUMREC)}
		most := max(s.info.MaxData/nvme.DiscoveryEntrySize, 1)
		for done := 0; done < len(log.Entries); {
			n := min(most, len(log.Entries)-done)
			// Its own memory for each: a command that is not waited for keeps it.
			data := make([]byte, n*nvme.DiscoveryEntrySize)
			offset := uint64(nvme.DiscoveryHeaderSize + done*nvme.DiscoveryEntrySize)
			if err := read(offset, data, true); err != nil {
				return nil, err
			}
			for i := range n {
				if err := log.Entries[done+i].Parse(data[i*nvme.DiscoveryEntrySize:]); err != nil {
					return nil, err
				}
			}
			done += n
		}
		if err := readHeader(false); err != nil {
			return nil, err
		}
		if header.GENCTR == first.GENCTR && header.NUMREC == first.NUMREC {
			return log, nil
		}
	}
	return nil, fmt.Errorf("host: discovery log: GENCTR changed %d times while it was read", maxDiscoveryReads)
}
