package target

import (
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
)

// Limits of Copy, as Identify Namespace reports them.
const (
	copyRanges = 128     // MSRC is one less
	copyBytes  = 8 << 20 // of one command: MCL, and MSSRL, in blocks
	copyMost   = copyRanges * nvme.CopyRangeSize
)

// copyLimit returns MSSRL and MCL: at most what 16 bits can say.
func (n *Namespace) copyLimit() uint64 { return min(uint64(copyBytes)>>n.shift, 1<<16-1) }

// verifySize checks a Verify.
func (rq *request) verifySize() (uint64, error) { return 0, rq.blocks() }

// verify is Verify: the blocks are read, a piece at a time, and no more.
func (rq *request) verify() {
	rq.inSteps()
	rq.nextVerify()
}

func (rq *request) nextVerify() {
	if rq.stopped() || !rq.haveBuffer() {
		return
	}
	s := rq.steps
	n := min(rq.length-s.done, uint64(len(s.buf)))
	rq.lba = (rq.offset + s.done) >> rq.ns.shift
	rq.submit(bdev.Read, rq.offset+s.done, n, rq.bufferData(n))
}

func (rq *request) verifyDone() {
	if rq.steps.done += rq.op.Length; rq.steps.done == rq.length {
		rq.complete(nil)
		return
	}
	rq.giveWay()
}

// copySize checks a Copy, but for its ranges.
func (rq *request) copySize() (uint64, error) {
	f := rq.r.Command.Copy()
	rq.lba = f.SDLBA
	if err := rq.writable(); err != nil {
		return 0, err
	}
	if f.DESFMT != 0 {
		return 0, invalidField("DESFMT", nvme.OffCopyFmt)
	}
	if int(f.NR) >= copyRanges {
		return 0, &nvme.FieldError{Status: nvme.CommandSizeLimitExceeded.WithDNR(), Field: "NR", Offset: nvme.OffCopyNR}
	}
	return (uint64(f.NR) + 1) * nvme.CopyRangeSize, nil
}

// copyBlocks is Copy [NVM, Copy command]. All ranges are checked before the first
// is copied. They are copied in their order, each in pieces; where a range
// overlaps its destination, in the order that keeps what is still to be read.
// The result of one that fails is the range that it has not copied.
func (rq *request) copyBlocks() {
	f := rq.r.Command.Copy()
	most := rq.ns.copyLimit()
	var sum uint64
	for i := range int(f.NR) + 1 {
		r := rq.copyRange(i)
		n := r.Blocks()
		if sum += n; n > most || sum > most {
			rq.complete(nvme.CommandSizeLimitExceeded.WithDNR())
			return
		}
		if err := rq.inRange(r.SLBA, n); err != nil {
			rq.complete(nvme.LBAOutOfRange.WithDNR()) // the field is in the data
			return
		}
	}
	if err := rq.blockRange(f.SDLBA, sum); err != nil {
		rq.complete(err)
		return
	}
	rq.inSteps().to = rq.offset
	rq.nextCopy()
}

// nextCopy begins with the next piece: it is read, and then written.
func (rq *request) nextCopy() {
	if rq.stopped() || !rq.haveBuffer() {
		return
	}
	from, _, n := rq.piece()
	rq.lba = from >> rq.ns.shift
	rq.submit(bdev.Read, from, n, rq.bufferData(n))
}

// piece returns where the next piece is, where it goes, and its length, in bytes.
func (rq *request) piece() (from, to, n uint64) {
	s := rq.steps
	r := rq.copyRange(s.next)
	source, length := r.SLBA<<rq.ns.shift, r.Blocks()<<rq.ns.shift
	n = min(length-s.done, uint64(len(s.buf)))
	at := s.done
	if source < s.to && s.to < source+length {
		at = length - s.done - n // from its end
	}
	return source + at, s.to + at, n
}

func (rq *request) copyDone() {
	s := rq.steps
	_, to, n := rq.piece()
	if s.writing = !s.writing; s.writing {
		if !rq.stopped() {
			rq.lba = to >> rq.ns.shift
			rq.submit(bdev.Write, to, n, rq.bufferData(n))
		}
		return
	}
	s.done += n
	if length := rq.copyRange(s.next).Blocks() << rq.ns.shift; s.done == length {
		s.to += length
		s.next, s.done = s.next+1, 0
		if s.next > int(rq.r.Command.Copy().NR) {
			rq.result = 0
			rq.complete(nil)
			return
		}
		rq.result = uint64(s.next)
	}
	rq.giveWay()
}

func (rq *request) copyRange(i int) nvme.CopyRange {
	var b [nvme.CopyRangeSize]byte
	rq.dataAt(b[:], i*nvme.CopyRangeSize)
	var r nvme.CopyRange
	// It has all of its bytes: check saw to the length.
	_ = r.Parse(b[:])
	return r
}
