package bdev

import "fmt"

// NullConfig describes a null device.
type NullConfig struct {
	Size      uint64 // bytes: a multiple of BlockSize, not zero
	BlockSize int    // 512 or 4096; zero: DefaultBlockSize
}

// Null is a device that reads as zeros and drops what is written. Ops are done
// within Submit.
//
// Power loss: there is nothing to lose.
type Null struct{ info Info }

// NewNull returns a null device.
func NewNull(cfg NullConfig) (*Null, error) {
	info, err := geometry(cfg.Size, cfg.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("bdev: null: %w", err)
	}
	info.ZeroAfterDeallocate = true
	return &Null{info}, nil
}

// Info returns the geometry.
func (n *Null) Info() Info { return n.info }

// Submit carries op out; see [Device].
func (n *Null) Submit(op *Op) { op.Finish(n.do(op)) }

func (n *Null) do(op *Op) error {
	if err := op.inRange(n.info); err != nil {
		return err
	}
	switch op.Kind {
	case Read, Compare:
		if op.dataLen() < op.Length {
			return errShortData(op)
		}
		for _, d := range op.Data {
			if op.Kind == Read {
				clear(d)
			} else if !allZero(d) {
				return ErrCompare
			}
		}
		return nil
	case Write, Flush, WriteZeroes, Deallocate:
		return nil
	}
	return errKind(op.Kind)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Close does nothing; see [Device].
func (n *Null) Close() error { return nil }
