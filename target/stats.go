package target

import (
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// Stats is what commands have done since the beginning.
type Stats struct {
	Reads        uint64 `json:"reads"` // commands that succeeded
	ReadBytes    uint64 `json:"read_bytes"`
	Writes       uint64 `json:"writes"`
	WrittenBytes uint64 `json:"written_bytes"`
	Others       uint64 `json:"others"` // all other commands, and those that failed
	// Errors is commands that failed. Asynchronous Event Requests that still wait
	// when they are aborted, or their controller ends, are not among them.
	Errors uint64 `json:"errors"`

	// Of Others, those that succeeded.
	Compares    uint64 `json:"compares"`
	Copies      uint64 `json:"copies"`
	CopiedBytes uint64 `json:"copied_bytes"`
	// CheckedBytes is what Compare and Verify have read.
	CheckedBytes uint64 `json:"checked_bytes"`

	// MediaErrors is, of Errors, those that end with Unrecovered Read Error.
	MediaErrors uint64 `json:"media_errors"`

	// Busy is for how long I/O commands were outstanding, to a second. What
	// several shards do at the same time counts several times.
	Busy time.Duration `json:"busy"`
}

// A tally is a subsystem's statistics on one shard: the shard writes them, and
// any goroutine may read those that are atomic. There are as many as there are
// shards, whatever comes and goes, so that reading them all is cheap.
type tally struct {
	reads, readBytes, writes, writtenBytes, others, errors atomic.Uint64

	compares, copies, copiedBytes, checkedBytes, mediaErrors atomic.Uint64

	busy atomic.Int64 // ns

	outstanding int           // I/O commands
	since       time.Duration // from when on they are not in busy
}

// busyStep is how much time may be missing in busy while commands are
// outstanding.
const busyStep = time.Second

// begin notes an I/O command.
func (t *tally) begin(now time.Duration) {
	if t.outstanding == 0 {
		t.since = now
	}
	t.outstanding++
}

// end notes the end of one that begin was told of.
func (t *tally) end(now time.Duration) {
	t.outstanding--
	if d := now - t.since; t.outstanding == 0 && d > 0 || d >= busyStep {
		t.busy.Add(int64(d))
		t.since = now
	}
}

// count adds a request of queue qid that has ended.
func (t *tally) count(rq *request, qid uint16) {
	if s := rq.r.Completion.Status; !s.OK() {
		if !rq.recalled { // every host leaves some behind, and nothing is wrong
			t.errors.Add(1)
		}
		if s.Base() == nvme.UnrecoveredReadError {
			t.mediaErrors.Add(1)
		}
		t.others.Add(1)
		return
	}
	if qid != 0 {
		switch nvme.IOOpcode(rq.r.Command.Opcode()) {
		case nvme.IORead:
			t.reads.Add(1)
			t.readBytes.Add(rq.length)
			return
		case nvme.IOWrite:
			t.writes.Add(1)
			t.writtenBytes.Add(rq.length)
			return
		case nvme.IOCompare:
			t.compares.Add(1)
			t.checkedBytes.Add(rq.length)
		case nvme.IOVerify:
			t.checkedBytes.Add(rq.length)
		case nvme.IOCopy:
			t.copies.Add(1)
			t.copiedBytes.Add(rq.length)
		}
	}
	t.others.Add(1)
}

func (t *tally) addTo(s *Stats) {
	s.Reads += t.reads.Load()
	s.ReadBytes += t.readBytes.Load()
	s.Writes += t.writes.Load()
	s.WrittenBytes += t.writtenBytes.Load()
	s.Others += t.others.Load()
	s.Errors += t.errors.Load()
	s.Compares += t.compares.Load()
	s.Copies += t.copies.Load()
	s.CopiedBytes += t.copiedBytes.Load()
	s.CheckedBytes += t.checkedBytes.Load()
	s.MediaErrors += t.mediaErrors.Load()
	s.Busy += time.Duration(t.busy.Load())
}

// tallyLocked returns the subsystem's tally on a shard.
func (s *Subsystem) tallyLocked(sh *shard.Shard) *tally {
	t := s.tallyOf[sh]
	if t == nil {
		t = new(tally)
		s.tallyOf[sh] = t
		all := append([]*tally(nil), *s.tallies.Load()...)
		all = append(all, t)
		s.tallies.Store(&all)
	}
	return t
}

// Stats returns what the subsystem's queues have done. It takes no lock, and no
// longer the more queues there are.
func (s *Subsystem) Stats() Stats {
	var sum Stats
	for _, t := range *s.tallies.Load() {
		t.addTo(&sum)
	}
	return sum
}
