package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What bare datagrams do: the client keeps so many requests outstanding. A read
// is a datagram of requestSize, answered by the data in datagrams of segment
// bytes; a write is the data, answered by a datagram of answerSize. Both ends
// copy the data that they receive to where it belongs, and send it from where
// it is. Nothing is checked. What is lost, and nothing else should be, is asked
// for again after a while.
//
// Each datagram has a header: slot and sequence number of the request, and the
// offset of the data that follows.
const (
	offSlot    = 0
	offSeq     = 4
	offOffset  = 8
	offLength  = 12
	headerSize = 16

	segment     = 4096 // of data in a datagram, as in a RoCEv2 packet
	requestSize = 80   // as a command capsule
	answerSize  = 32   // as a response capsule

	resendAfter = 50 * time.Millisecond
	storeSize   = 4 << 20
	serverPort  = 4793
	clientPort  = 4794
)

// datagrams is one end of the exchange.
func datagrams(args []string) error {
	flags := flag.NewFlagSet("udp", flag.ExitOnError)
	role := flags.String("role", "", "server or client")
	bytes := flags.Int("bytes", 4096, "of a request's data")
	depth := flags.Int("depth", 1, "requests outstanding")
	write := flags.Bool("write", false, "the client sends the data")
	length := flags.Duration("runtime", time.Second, "of the client")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *bytes < 1 || *bytes > storeSize || *depth < 1 || *depth > 1024 {
		return fmt.Errorf("%d requests of %d bytes", *depth, *bytes)
	}
	local, remote := serverPort, clientPort
	if *role == "client" {
		local, remote = remote, local
	}
	c, err := newConn(local, remote)
	if err != nil {
		return err
	}
	e := end{conn: c, bytes: *bytes, write: *write, store: make([]byte, storeSize), slots: make([]slot, *depth)}
	for i := range e.store {
		e.store[i] = byte(i * 7)
	}
	switch *role {
	case "server":
		fmt.Println("ready")
		return e.serve()
	case "client":
		return e.load(*length)
	}
	return fmt.Errorf("role %q", *role)
}

// An end is one end of the exchange.
type end struct {
	conn  *conn
	bytes int
	write bool
	store []byte
	slots []slot

	// Of the client.
	start     time.Time
	deadline  time.Duration
	now       time.Duration // of the batch
	completed uint64
	lost      uint64
	stopped   bool
	latency   *hdrhistogram.Histogram
}

// A slot is a request that is outstanding.
type slot struct {
	seq     uint32
	got     int // bytes of its data, or of the answer
	began   time.Duration
	touched time.Duration
}

// place is where in the store a request's data is.
func (e *end) place(slot, offset uint32) int {
	at := (int(slot)*e.bytes + int(offset)) % (storeSize - segment)
	return at &^ 7
}

// sendData sends a request's data.
func (e *end) sendData(slot, seq uint32) {
	for at := 0; at < e.bytes; at += segment {
		n := min(segment, e.bytes-at)
		p := e.place(slot, uint32(at))
		e.conn.queue(header(slot, seq, uint32(at), uint32(n)), e.store[p:p+n])
	}
}

func header(slot, seq, offset, length uint32) (h [headerSize]byte) {
	binary.LittleEndian.PutUint32(h[offSlot:], slot)
	binary.LittleEndian.PutUint32(h[offSeq:], seq)
	binary.LittleEndian.PutUint32(h[offOffset:], offset)
	binary.LittleEndian.PutUint32(h[offLength:], length)
	return h
}

// padding is what follows the header of a datagram without data.
var padding [max(requestSize, answerSize)]byte

// serve answers until the process is killed.
func (e *end) serve() error {
	for {
		if err := e.conn.receive(-1, e.request); err != nil {
			return err
		}
		if err := e.conn.flush(); err != nil {
			return err
		}
	}
}

// request takes a datagram of the client's.
func (e *end) request(d []byte) {
	if len(d) < headerSize {
		return
	}
	number, seq := binary.LittleEndian.Uint32(d[offSlot:]), binary.LittleEndian.Uint32(d[offSeq:])
	if int(number) >= len(e.slots) {
		return
	}
	if !e.write {
		e.sendData(number, seq)
		return
	}
	s := &e.slots[number]
	if s.seq != seq {
		s.seq, s.got = seq, 0
	}
	s.got += copy(e.store[e.place(number, binary.LittleEndian.Uint32(d[offOffset:])):], d[headerSize:])
	if s.got == e.bytes {
		e.conn.queue(header(number, seq, 0, 0), padding[:answerSize-headerSize])
	}
}

// load asks for so long and prints what it measured.
func (e *end) load(length time.Duration) error {
	e.latency = hdrhistogram.New(1, int64(time.Hour), 3)
	e.start, e.deadline = time.Now(), length
	for i := range e.slots {
		e.ask(uint32(i))
	}
	for !e.stopped {
		if err := e.conn.flush(); err != nil {
			return err
		}
		e.now = time.Since(e.start)
		if err := e.conn.receive(resendAfter, e.answer); err != nil {
			return err
		}
		e.resend()
		e.stopped = e.now >= e.deadline
	}
	elapsed := e.now.Seconds()
	var f figure
	f.IOPS = float64(e.completed) / elapsed
	f.MiBs = f.IOPS * float64(e.bytes) / (1 << 20)
	f.Lost = e.lost
	f.Latency.P50 = float64(e.latency.ValueAtQuantile(50)) / 1e3
	f.Latency.P99 = float64(e.latency.ValueAtQuantile(99)) / 1e3
	f.Latency.P999 = float64(e.latency.ValueAtQuantile(99.9)) / 1e3
	return json.NewEncoder(os.Stdout).Encode(f)
}

// ask sends the next request of a slot.
func (e *end) ask(number uint32) {
	s := &e.slots[number]
	now := time.Since(e.start)
	*s = slot{seq: s.seq + 1, began: now, touched: now}
	e.send(number)
}

func (e *end) send(number uint32) {
	seq := e.slots[number].seq
	if e.write {
		e.sendData(number, seq)
		return
	}
	e.conn.queue(header(number, seq, 0, uint32(e.bytes)), padding[:requestSize-headerSize])
}

// answer takes a datagram of the server's.
func (e *end) answer(d []byte) {
	if len(d) < headerSize {
		return
	}
	number, seq := binary.LittleEndian.Uint32(d[offSlot:]), binary.LittleEndian.Uint32(d[offSeq:])
	if int(number) >= len(e.slots) || e.slots[number].seq != seq {
		return
	}
	s := &e.slots[number]
	s.touched = e.now
	if !e.write {
		s.got += copy(e.store[e.place(number, binary.LittleEndian.Uint32(d[offOffset:])):], d[headerSize:])
		if s.got != e.bytes {
			return
		}
	}
	e.completed++
	_ = e.latency.RecordValue(max(1, int64(time.Since(e.start)-s.began))) // an error: longer than an hour
	e.ask(number)
}

// resend asks again for what has not come for long.
func (e *end) resend() {
	e.now = time.Since(e.start)
	for i := range e.slots {
		if s := &e.slots[i]; e.now-s.touched > resendAfter {
			e.lost++
			s.seq++
			s.got, s.touched = 0, e.now
			e.send(uint32(i))
		}
	}
}
