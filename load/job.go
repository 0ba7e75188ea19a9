package load

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
)

type jobEnded struct{} // completed on the shard of the job's queue

// A phase is what a job does.
type phase uint8

const (
	laying phase = iota // writes everything that it is going to read and check
	measuring
	verifying // reads back what it has written
	over
)

// A job keeps so many commands outstanding on one queue, on blocks that are its
// own. From begin to the end it belongs to the queue's shard.
type job struct {
	run   *run
	queue *host.Queue
	ended lockdep.Completion[jobEnded]

	first  uint64 // the job's first block, of BlockSize bytes, in the namespace
	blocks uint64 // how many it has
	rng    rand.PCG
	cursor uint64 // of sequential patterns, and of verifying

	phase       phase
	outstanding int
	limited     bool
	left        uint64        // commands to submit, if limited
	began       time.Duration // of the measurement, since the start of the run
	elapsed     time.Duration // of the measurement, once that has ended

	slots       []slot
	read, write side
	verify      *verifier // nil: none

	errors       uint64
	verifyErrors uint64
	err          error // the first of both kinds
}

// A side is what was measured of one direction.
type side struct {
	commands uint64
	latency  *hdrhistogram.Histogram // in ns
}

// Bounds of what a histogram tells apart: from 1 ns to an hour, by a thousandth.
const (
	minLatency  = 1
	maxLatency  = int64(time.Hour)
	significant = 3
)

func newLatency() *hdrhistogram.Histogram {
	return hdrhistogram.New(minLatency, maxLatency, significant)
}

// A slot is the place of one outstanding command.
type slot struct {
	io    host.IO
	job   *job
	began time.Duration // since the start of the run
	block uint64        // of the job's
	stamp stamp         // what verification expects, or has written
}

func newJob(r *run, q *host.Queue, number, first, blocks uint64) *job {
	cfg := &r.cfg
	j := &job{
		run: r, queue: q, first: first, blocks: blocks,
		slots: make([]slot, cfg.IODepth),
		read:  side{latency: newLatency()},
		write: side{latency: newLatency()},
	}
	j.rng.Seed(cfg.Seed, number)
	if cfg.Verify {
		j.verify = newVerifier(cfg.Seed, first*uint64(cfg.BlockSize), uint64(cfg.BlockSize), blocks)
	}
	memory := make([]byte, cfg.IODepth*cfg.BlockSize)
	for i := range j.slots {
		s := &j.slots[i]
		s.job = j
		s.io.Namespace = r.namespace
		s.io.Data = memory[i*cfg.BlockSize : (i+1)*cfg.BlockSize : (i+1)*cfg.BlockSize]
		s.io.Done = s.done
		fill(s.io.Data, cfg.Seed+number<<32+uint64(i))
	}
	return j
}

// begin submits the first commands. It runs on the shard, once.
func (j *job) begin() {
	if !j.run.lays() {
		j.phase = measuring
	}
	j.issueAll()
	j.settle()
}

// issueAll submits commands in all slots, which are free.
func (j *job) issueAll() {
	now := time.Since(j.run.start)
	for i := range j.slots {
		j.issue(&j.slots[i], now)
	}
}

// issue submits another command in a slot that is free, unless there is none to
// submit.
func (j *job) issue(s *slot, now time.Duration) {
	if !j.choose(s, now) {
		return
	}
	s.io.LBA = (j.first + s.block) * uint64(len(s.io.Data)) >> j.run.shift
	s.began = now
	if err := j.queue.Submit(&s.io); err != nil {
		j.errors++
		j.fail(fmt.Errorf("load: bench: queue %d: %w", j.queue.ID(), err))
		if j.verify != nil {
			j.verify.release(s.block, unknown)
		}
		return
	}
	j.outstanding++
}

// choose says what a slot is to do next, or that there is nothing to be done.
func (j *job) choose(s *slot, now time.Duration) bool {
	r := j.run
	if r.stop.Load() {
		return false
	}
	switch j.phase {
	case laying:
		if j.cursor == j.blocks {
			return false
		}
		s.io.Op, s.block = nvme.IOWrite, j.cursor
		j.cursor++
		s.stamp = j.verify.take(s.block).next()
		j.verify.write(s.block, s.stamp, s.io.Data)
		return true
	case measuring:
		if j.limited && j.left == 0 || r.cfg.Runtime > 0 && now-j.began >= r.cfg.Runtime {
			return false
		}
		j.left--
		chance := j.rng.Uint64()
		s.io.Op = nvme.IOWrite
		if chance&(1<<32-1) < r.readOf {
			s.io.Op = nvme.IORead
		}
		if r.cfg.Pattern.random() {
			s.block, _ = bits.Mul64(j.rng.Uint64(), j.blocks)
		} else {
			s.block = j.cursor
			if j.cursor++; j.cursor == j.blocks {
				j.cursor = 0
			}
		}
		if j.verify != nil {
			s.block = j.verify.free(s.block)
			s.stamp = j.verify.take(s.block)
			if s.io.Op == nvme.IOWrite {
				s.stamp = s.stamp.next()
				j.verify.write(s.block, s.stamp, s.io.Data)
			}
		}
		return true
	case verifying:
		for ; j.cursor < j.blocks; j.cursor++ {
			if j.verify.known(j.cursor) {
				s.io.Op, s.block = nvme.IORead, j.cursor
				s.stamp = j.verify.take(s.block)
				j.cursor++
				return true
			}
		}
	}
	return false
}

// done is told of the end of the slot's command, on the shard.
func (s *slot) done(io *host.IO) {
	j := s.job
	j.outstanding--
	now := time.Since(j.run.start)
	if io.Err != nil {
		j.errors++
		j.fail(io.Err)
		s.stamp = unknown
	} else if j.phase == measuring {
		d := &j.write
		if io.Op == nvme.IORead {
			d = &j.read
		}
		d.commands++
		// An error: longer than an hour, which is the same.
		_ = d.latency.RecordValue(min(max(int64(now-s.began), minLatency), maxLatency))
	}
	if j.verify != nil {
		if io.Op == nvme.IORead && io.Err == nil {
			if err := j.verify.check(s.block, s.stamp, io.Data); err != nil {
				j.verifyErrors++
				j.fail(err)
			}
		}
		j.verify.release(s.block, s.stamp)
	}
	j.issue(s, now)
	j.settle()
}

// fail notes what went wrong and has the run end.
func (j *job) fail(err error) {
	if j.err == nil {
		j.err = err
	}
	j.run.stop.Store(true)
}

// settle goes on to the next phase when nothing is outstanding.
func (j *job) settle() {
	for j.outstanding == 0 && j.phase != over {
		now := time.Since(j.run.start)
		j.cursor = 0
		switch j.phase {
		case laying:
			j.phase, j.began = measuring, now
			j.issueAll()
		case measuring:
			j.phase, j.elapsed = verifying, now-j.began
			if j.verify != nil && !j.run.lays() { // what it has laid it has checked as it read
				j.issueAll()
			}
		default:
			j.phase = over
		}
	}
	if j.phase == over {
		j.ended.Complete()
	}
}
