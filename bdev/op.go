package bdev

import "fmt"

// inRange returns [ErrRange] unless the op lies within the device and in whole
// blocks. Submit's contract has its caller check; a device that is asked for
// what it does not have must still not touch it.
func (op *Op) inRange(i Info) error {
	size, block := i.Size(), uint64(i.BlockSize)
	if op.Kind == Flush {
		return nil
	}
	if op.Offset > size || op.Length > size-op.Offset || op.Offset%block != 0 || op.Length%block != 0 {
		return fmt.Errorf("bdev: %v: bytes %d+%d of %d in blocks of %d: %w", op.Kind, op.Offset, op.Length, size, block, ErrRange)
	}
	return nil
}

// dataLen is how many bytes op.Data has.
func (op *Op) dataLen() uint64 {
	var n uint64
	for _, d := range op.Data {
		n += uint64(len(d))
	}
	return n
}

func errShortData(op *Op) error {
	return fmt.Errorf("bdev: %v: %d bytes of data, need %d", op.Kind, op.dataLen(), op.Length)
}

func errKind(k Kind) error { return fmt.Errorf("bdev: %v: no such kind of op", k) }
