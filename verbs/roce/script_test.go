package roce

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scripts of TestScripts")

// TestScripts plays scenarios with one queue pair, line by line. A line is one
// or more commands, separated by semicolons, that are carried out in one round;
// the indented lines after it are all that comes of them: packets, completions,
// events. A # begins a comment. Packets that come are written as the packets
// that go.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			inShard(t, func(t *testing.T, s *shard.Shard) { play(t, s, file, string(text)) })
		})
	}
}

func play(t *testing.T, s *shard.Shard, file, text string) {
	p := &player{t: t, shard: s}
	playLines(t, file, text, p.line, p.end)
}

// playLines gives the lines of a script to line, which returns what came of
// each, and compares.
func playLines(t *testing.T, file, text string, line func(string) []string, end func()) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var result []string
	for i := 0; i < len(lines); {
		source := lines[i]
		result = append(result, source)
		i++
		cmd, _, _ := strings.Cut(source, "#")
		if strings.TrimSpace(cmd) == "" {
			continue
		}
		got := line(cmd)
		var want []string
		for ; i < len(lines) && strings.HasPrefix(lines[i], "\t"); i++ {
			out, comment, _ := strings.Cut(lines[i], "#")
			want = append(want, strings.TrimSpace(out))
			if n := len(want) - 1; n < len(got) && got[n] == want[n] && comment != "" {
				got[n] += " #" + comment
				want[n] += " #" + comment
			}
		}
		for _, g := range got {
			result = append(result, "\t"+g)
		}
		if g, w := strings.Join(got, "\n\t"), strings.Join(want, "\n\t"); g != w && !*rewrite {
			t.Errorf("%s:%d: %s\n    got\n\t%s\n    want\n\t%s", file, i, source, g, w)
		}
	}
	end()
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.Join(result, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var playAddr, playPeer = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// A player carries out a script. The peer is the script.
type player struct {
	t     *testing.T
	shard *shard.Shard

	dev     *bare
	cq      *completionQueue
	srq     *sharedRecvQueue
	qp      *queuePair
	regions map[string]*playRegion
	bufs    map[uint64][]byte // by work request
	out     []string
}

type playRegion struct {
	*soft.Region
	buf []byte
	va  uint64
}

const playPeerQPN = 0x77

// end destroys what there is and checks that nothing is left.
func (p *player) end() {
	if p.dev == nil {
		return
	}
	p.run(func() {
		e := p.dev.eng
		if p.qp != nil && e.qps.get(p.qp.num) == p.qp {
			if err := p.qp.Destroy(); err != nil {
				p.t.Error(err)
			}
		}
		e.flush()
		for _, err := range []error{e.audit(), e.auditBatch()} {
			if err != nil {
				p.t.Error(err)
			}
		}
		if len(e.paths) != 0 || e.out != 0 || e.qps.count != 0 {
			p.t.Errorf("at the end there are %d paths, %d QPs, %d bytes of READs", len(e.paths), e.qps.count, e.out)
		}
	})
}

func (p *player) run(fn func()) {
	if err := p.shard.Run(fn); err != nil {
		p.t.Fatal(err)
	}
	synctest.Wait()
}

// line carries out a line and returns what came of it.
func (p *player) line(line string) []string {
	p.t.Helper()
	fields := strings.Fields(line)
	if fields[0] == "time" {
		d, err := time.ParseDuration(fields[1])
		if err != nil {
			p.t.Fatal(err)
		}
		time.Sleep(d) // in a bubble
		synctest.Wait()
	} else {
		if fields[0] == "qp" {
			p.end()
		}
		p.run(func() {
			for _, cmd := range strings.Split(line, ";") {
				p.command(strings.Fields(cmd))
			}
		})
	}
	var out []string
	p.run(func() {
		out, p.out = p.out, nil
		if p.dev == nil {
			return
		}
		for _, f := range p.dev.wire.out {
			out = append(out, "> "+p.packet(f))
		}
		p.dev.wire.out = nil
		if err := p.dev.eng.audit(); err != nil {
			p.t.Errorf("%s: %v", line, err)
		}
	})
	return out
}

// words are the arguments of a command: names with values, and names alone.
type words struct {
	p    *player
	rest []string
}

func (w words) has(name string) bool { _, ok := w.find(name); return ok }

func (w words) find(name string) (int, bool) {
	for i, s := range w.rest {
		if s == name {
			return i, true
		}
	}
	return 0, false
}

func (w words) str(name string) string {
	if i, ok := w.find(name); ok && i+1 < len(w.rest) {
		return w.rest[i+1]
	}
	return ""
}

func (w words) num(name string, otherwise int) int {
	if s := w.str(name); s != "" {
		return w.p.num(s)
	}
	return otherwise
}

func (p *player) num(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(n)
}

func (p *player) command(f []string) {
	w := words{p, f[1:]}
	var err error
	switch f[0] {
	case "qp":
		p.newQP(w)
	case "recv", "badrecv":
		id := uint64(p.num(f[1]))
		p.bufs[id] = make([]byte, p.num(f[2]))
		sg := []verbs.SGE{{Buf: p.bufs[id], LKey: soft.LocalDMALKey}}
		if f[0] == "badrecv" {
			sg[0].LKey = 0xbad00
		}
		wr := []verbs.RecvWR{{WRID: id, SG: sg}}
		if p.srq != nil {
			err = p.srq.PostRecv(wr)
		} else {
			err = p.qp.PostRecv(wr)
		}
	case "mr", "fast":
		p.register(f[0] == "fast", f[1], p.num(f[2]), accessOf(w.str("access")))
	case "dereg":
		err = p.dev.keys.Remove(p.regions[f[1]].Region)
	case "post":
		err = p.post(w)
	case "mem":
		p.say("%s", runs(p.regions[f[1]].buf))
	case "buf":
		p.say("%s", runs(p.bufs[uint64(p.num(f[1]))]))
	case "set": // memory gets another content
		var b []byte
		if r := p.regions[f[1]]; r != nil {
			b = r.buf
		} else {
			b = p.bufs[uint64(p.num(f[1]))]
		}
		for i := range b {
			b[i] = byte(p.num(f[2]))
		}
	case "state":
		p.say("%v", p.qp.State())
	case "modify":
		err = p.qp.Modify(map[string]verbs.QPState{"reset": verbs.Reset, "init": verbs.Init, "err": verbs.Err}[f[1]])
	case "destroy":
		err = p.qp.Destroy()
	case "room":
		p.dev.wire.room = p.num(f[1])
		if p.dev.wire.room != 0 && p.dev.eng.blocked {
			p.dev.eng.writable()
		}
	case "marked": // a packet that comes with the mark of congestion
		p.dev.eng.marked = true
		p.dev.receive(forge(playPeer, playAddr, p.parse(f[1:])))
		p.dev.eng.marked = false
	default:
		p.dev.receive(forge(playPeer, playAddr, p.parse(f)))
	}
	if err != nil {
		p.say("error %v", err)
	}
}

func (p *player) say(format string, args ...any) { p.out = append(p.out, fmt.Sprintf(format, args...)) }

func accessOf(s string) verbs.Access {
	switch s {
	case "none":
		return 0
	case "r":
		return verbs.AccessRemoteRead
	case "w":
		return verbs.AccessLocalWrite | verbs.AccessRemoteWrite
	}
	return verbs.AccessLocalWrite | verbs.AccessRemoteWrite | verbs.AccessRemoteRead
}

func (p *player) newQP(w words) {
	p.dev = newBare(p.shard, playAddr, w.num("budget", 1<<20))
	p.regions, p.bufs = map[string]*playRegion{}, map[uint64][]byte{}
	cq, err := p.dev.pd.CreateCQ(verbs.CQAttr{Size: 1024, Handler: p.completed})
	if err != nil {
		p.t.Fatal(err)
	}
	p.cq = cq.(*completionQueue)
	init := verbs.QPInitAttr{
		SendCQ: cq, RecvCQ: cq, MaxSendWR: w.num("sends", 64), MaxRecvWR: 64, MaxSendSGE: 2, MaxRecvSGE: 2,
		Event: func(err error) { p.say("event %s", p.named(err.Error())) },
	}
	p.srq = nil
	if w.has("srq") {
		srq, err := p.dev.pd.CreateSRQ(verbs.SRQAttr{MaxWR: 64, MaxSGE: 2})
		if err != nil {
			p.t.Fatal(err)
		}
		init.SRQ, p.srq = srq, srq.(*sharedRecvQueue)
	}
	qp, err := p.dev.pd.CreateQP(init)
	if err != nil {
		p.t.Fatal(err)
	}
	p.qp = qp.(*queuePair)
	if err := qp.Modify(verbs.Init); err != nil {
		p.t.Fatal(err)
	}
	if err := qp.Connect(verbs.QPAttr{
		Path:    verbs.Path{Local: playAddr, Remote: playPeer, MTU: w.num("mtu", 256)},
		DestQPN: playPeerQPN, SQPSN: uint32(w.num("sqpsn", 500)), RQPSN: uint32(w.num("psn", 100)),
		MaxRdAtomic: w.num("rdatom", 2), MaxDestRd: w.num("reads", 2),
		RetryCnt: w.num("retry", 3), RNRRetry: w.num("rnrretry", 7), Timeout: 14,
		MinRNRTimer: uint8(w.num("rnr", 12)), RemoteAccess: accessOf(w.str("access")),
	}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) completed(wcs []verbs.WC) {
	for _, wc := range wcs {
		s := fmt.Sprintf("wc %d %v", wc.WRID, wc.Opcode)
		if wc.Status != verbs.WCSuccess {
			s += fmt.Sprintf(": %v", wc.Status)
		} else if wc.Opcode == verbs.WCRecv {
			s += fmt.Sprintf(" %d bytes", wc.ByteLen)
			if wc.Flags&verbs.WCWithImm != 0 {
				s += fmt.Sprintf(" imm %d", wc.Imm)
			}
			if wc.Flags&verbs.WCWithInvalidate != 0 {
				s += " invalidated " + p.keyName(wc.InvRKey)
			}
		}
		p.say("%s", s)
	}
}

func (p *player) register(fast bool, name string, n int, access verbs.Access) {
	r := &playRegion{buf: make([]byte, n), va: uint64(len(p.regions)+1) << 16}
	var err error
	if fast {
		if r.Region, err = p.dev.keys.Alloc(p.dev.pd, n); err == nil &&
			!p.dev.keys.FastRegister(r.Region, p.dev.pd, r.buf, r.va, access, r.RKey()) {
			p.t.Fatalf("fast registration of %s", name)
		}
	} else {
		r.Region, err = p.dev.keys.Register(p.dev.pd, r.buf, r.va, access)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range r.buf {
		r.buf[i] = byte(i / 256)
	}
	p.regions[name] = r
}

// named is a text with numbers that differ from run to run replaced by names.
func (p *player) named(s string) string {
	s = strings.ReplaceAll(s, fmt.Sprintf("%#x", p.qp.num), "N")
	for name, r := range p.regions {
		s = strings.ReplaceAll(s, fmt.Sprintf("key %#x", r.RKey()), "key "+name)
	}
	return s
}

func (p *player) keyName(key uint32) string {
	for name, r := range p.regions {
		if r.RKey() == key {
			return name
		}
	}
	return fmt.Sprintf("%#x", key)
}

var playOps = map[string]verbs.WROpcode{
	"SEND": verbs.WRSend, "SEND_INV": verbs.WRSendWithInv, "SEND_IMM": verbs.WRSendWithImm,
	"WRITE": verbs.WRRDMAWrite, "WRITE_IMM": verbs.WRRDMAWriteWithImm, "READ": verbs.WRRDMARead, "INV": verbs.WRLocalInv,
}

// post: post ID OP [len N] [key K] [va N] [imm N] [region NAME] [fence] [unsignaled] [bad]
func (p *player) post(w words) error {
	id := uint64(p.num(w.rest[0]))
	op, ok := playOps[w.rest[1]]
	if !ok {
		p.t.Fatalf("no operation %s", w.rest[1])
	}
	buf := make([]byte, w.num("len", 0))
	for i := range buf {
		buf[i] = byte(id)
	}
	p.bufs[id] = buf
	wr := verbs.SendWR{
		WRID: id, Opcode: op, Flags: verbs.SendSignaled, SG: []verbs.SGE{{Buf: buf, LKey: soft.LocalDMALKey}},
		RemoteAddr: uint64(w.num("va", 0)), RKey: uint32(w.num("key", 0)), Imm: uint32(w.num("imm", 0)),
	}
	if r := p.regions[w.str("region")]; r != nil {
		wr.RKey = r.RKey()
	}
	if w.has("unsignaled") {
		wr.Flags = 0
	}
	if w.has("fence") {
		wr.Flags |= verbs.SendFence
	}
	if w.has("bad") {
		wr.SG[0].LKey = 0xbad00
	}
	return p.qp.PostSend([]verbs.SendWR{wr})
}

// Acknowledgements have names of their own.
var playSyndromes = map[string]uint8{
	"ACK": synAck, "NAK-SEQ": synNAKSequence, "NAK-INV": synNAKInvalid, "NAK-ACC": synNAKAccess, "NAK-OP": synNAKOperational,
}

// parse reads OPCODE PSN [ack] [se] [data RUNS] [region NAME [at N]] [key K]
// [va N] [dma N] [inv NAME] [imm N].
func (p *player) parse(f []string) *packet {
	w := words{p, f[2:]}
	h := &packet{bth: bth{destQP: p.qp.num, psn: PSN(p.num(f[1])), ackReq: w.has("ack"), se: w.has("se")}}
	if syn, ok := playSyndromes[f[0]]; ok {
		h.opcode, h.aeth.syndrome = opAcknowledge, syn
		return h
	}
	if f[0] == "RNR" {
		h.opcode, h.aeth.syndrome = opAcknowledge, synRNR(uint8(p.num(f[2])))
		return h
	}
	found := false
	for op, info := range opcodes {
		if info.name == f[0] {
			h.opcode, found = uint8(op), true
		}
	}
	if !found {
		p.t.Fatalf("no command or opcode %s", f[0])
	}
	h.aeth.syndrome = synAck
	for _, run := range strings.Split(w.str("data"), "+") {
		if b, n, ok := strings.Cut(run, "*"); ok {
			for range p.num(n) {
				h.payload = append(h.payload, byte(p.num(b)))
			}
		}
	}
	if r := p.regions[w.str("region")]; r != nil {
		h.reth = reth{va: r.va, rkey: r.RKey()}
	}
	h.reth.va += uint64(w.num("at", 0))
	h.reth.length = uint32(w.num("dma", 0))
	if w.has("key") {
		h.reth.rkey = uint32(w.num("key", 0))
	}
	if r := p.regions[w.str("inv")]; r != nil {
		h.ieth = r.RKey()
	}
	h.imm = uint32(w.num("imm", 0))
	return h
}

// packet says what a packet is that went to the peer, and checks what is the
// same in all of them.
func (p *player) packet(f frame) string {
	var h packet
	if err := parsePacket(f.b, &h); err != nil {
		p.t.Fatal(err)
	}
	if _, _, ok := newICRCPath(netip.AddrPortFrom(f.src, Port), netip.AddrPortFrom(f.dst, Port)).verify(f.b, 0); !ok ||
		f.src != playAddr || f.dst != playPeer || h.destQP != playPeerQPN || h.pkey != defaultPKey {
		p.t.Errorf("a packet from %v to %v, QP %#x, P_Key %#x, ICRC good %v", f.src, f.dst, h.destQP, h.pkey, ok)
	}
	name := opcodes[h.opcode].name
	if h.opcode == opAcknowledge {
		name = fmt.Sprintf("syndrome-%#x", h.aeth.syndrome)
		for n, syn := range playSyndromes {
			if syn == h.aeth.syndrome {
				name = n
			}
		}
		if isRNR(h.aeth.syndrome) {
			return fmt.Sprintf("RNR %d %d msn %d", h.psn, h.aeth.syndrome&synValueMask, h.aeth.msn)
		}
	}
	s := fmt.Sprintf("%s %d", name, h.psn)
	if h.ackReq {
		s += " ack"
	}
	if h.se {
		s += " se"
	}
	if h.opFlags&opHasAETH != 0 {
		s += fmt.Sprintf(" msn %d", h.aeth.msn)
	}
	if h.opFlags&opHasRETH != 0 {
		s += fmt.Sprintf(" va %d key %d dma %d", h.reth.va, h.reth.rkey, h.reth.length)
	}
	if h.opFlags&opHasIETH != 0 {
		s += fmt.Sprintf(" inv %d", h.ieth)
	}
	if h.opFlags&opHasImm != 0 {
		s += fmt.Sprintf(" imm %d", h.imm)
	}
	if len(h.payload) > 0 {
		s += " data " + runs(h.payload)
	}
	return s
}

// runs writes bytes as 7*256+8*3.
func runs(b []byte) string {
	var s []string
	for i := 0; i < len(b); {
		n := 1
		for i+n < len(b) && b[i+n] == b[i] {
			n++
		}
		s = append(s, fmt.Sprintf("%d*%d", b[i], n))
		i += n
	}
	return strings.Join(s, "+")
}
