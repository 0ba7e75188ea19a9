package simnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	hostA = netip.MustParseAddrPort("192.0.2.1:4791")
	hostB = netip.MustParseAddrPort("192.0.2.2:4791")
)

// A sink takes down what arrives at an address. It is read when the bubble is
// idle.
type sink struct {
	begin time.Time
	got   []string // contents
	at    []time.Duration
}

func (s *sink) receive(from, to netip.AddrPort, ident uint16, b []byte) {
	s.got = append(s.got, string(b))
	s.at = append(s.at, time.Since(s.begin))
}

// inBubble runs fn in a bubble with a network and a sink at hostB.
func inBubble(t *testing.T, cfg Config, fn func(t *testing.T, n *Net, s *sink)) {
	synctest.Test(t, func(t *testing.T) {
		n := New(cfg)
		defer n.Close()
		s := &sink{begin: time.Now()}
		detach, err := n.Attach(hostB, s.receive)
		if err != nil {
			t.Fatal(err)
		}
		defer detach()
		fn(t, n, s)
	})
}

// rest lets everything that is on its way arrive.
func rest() {
	time.Sleep(time.Hour) // of the bubble's time
	synctest.Wait()
}

func sendNumbers(n *Net, count int) {
	for i := range count {
		n.Send(hostA, hostB, 0, fmt.Append(nil, i))
	}
}

func TestDelayIsExact(t *testing.T) {
	const delay = 10 * time.Millisecond
	inBubble(t, Config{Link: Link{Delay: delay}}, func(t *testing.T, n *Net, s *sink) {
		sendNumbers(n, 3)
		rest()
		if want := []string{"0", "1", "2"}; !slices.Equal(s.got, want) {
			t.Fatalf("arrived %q, want %q", s.got, want)
		}
		// One at a time, a nanosecond apart.
		if want := []time.Duration{delay, delay + 1, delay + 2}; !slices.Equal(s.at, want) {
			t.Errorf("arrived at %v, want %v", s.at, want)
		}
	})
}

func TestReceiverSeesAddressesAndIdent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Config{})
		defer n.Close()
		var got string
		buf := []byte("abc")
		detach, err := n.Attach(hostB, func(from, to netip.AddrPort, ident uint16, b []byte) {
			got = fmt.Sprintf("%v %v %d %s", from, to, ident, b)
		})
		if err != nil {
			t.Fatal(err)
		}
		n.Send(hostA, hostB, 77, buf)
		copy(buf, "xyz") // the sender's again
		rest()
		if want := "192.0.2.1:4791 192.0.2.2:4791 77 abc"; got != want {
			t.Errorf("received %q, want %q", got, want)
		}
		if _, err := n.Attach(hostB, nil); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a second attach: %v", err)
		}
		detach()
		got = ""
		n.Send(hostA, hostB, 0, buf)
		rest()
		if got != "" || n.Stats().Unreachable != 1 {
			t.Errorf("after detach: received %q, stats %+v", got, n.Stats())
		}
		if detach, err = n.Attach(hostB, nil); err != nil {
			t.Fatalf("attach after detach: %v", err)
		}
		n.Close()
		detach()
		n.Send(hostA, hostB, 0, buf)
		if _, err := n.Attach(hostA, nil); err == nil {
			t.Error("attached to a closed network")
		}
		if s := n.Stats(); s.Sent != 2 || s.Delivered != 1 {
			t.Errorf("stats after close: %+v", s)
		}
	})
}

func TestAttachRefuses(t *testing.T) {
	n := New(Config{})
	defer n.Close()
	for _, a := range []string{"0.0.0.0:1", "[::]:1", "192.0.2.1:0"} {
		if _, err := n.Attach(netip.MustParseAddrPort(a), nil); err == nil {
			t.Errorf("attached to %s", a)
		}
	}
	if _, err := n.Attach(netip.AddrPort{}, nil); err == nil {
		t.Error("attached to no address")
	}
}

func TestScriptedDrop(t *testing.T) {
	drop := func(n int, b []byte) bool { return n == 1 || string(b) == "3" }
	inBubble(t, Config{Link: Link{Drop: drop}}, func(t *testing.T, n *Net, s *sink) {
		sendNumbers(n, 5)
		rest()
		if want := []string{"0", "2", "4"}; !slices.Equal(s.got, want) {
			t.Errorf("arrived %q, want %q", s.got, want)
		}
		if st := n.Stats(); st.Sent != 5 || st.Dropped != 2 || st.Delivered != 3 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestRateAndQueue(t *testing.T) {
	// Datagrams of 72 bytes are IP packets of 100: a millisecond each.
	link := Link{Rate: 100_000, Queue: 250, Delay: time.Second}
	inBubble(t, Config{Link: link}, func(t *testing.T, n *Net, s *sink) {
		for range 4 {
			n.Send(hostA, hostB, 0, make([]byte, 72))
		}
		rest()
		want := []time.Duration{time.Second + time.Millisecond, time.Second + 2*time.Millisecond}
		if !slices.Equal(s.at, want) {
			t.Errorf("arrived at %v, want %v", s.at, want)
		}
		if st := n.Stats(); st.Overflowed != 2 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestMTU(t *testing.T) {
	inBubble(t, Config{Link: Link{MTU: 100}}, func(t *testing.T, n *Net, s *sink) {
		n.Send(hostA, hostB, 0, make([]byte, 72))
		n.Send(hostA, hostB, 0, make([]byte, 73))
		rest()
		if len(s.got) != 1 || len(s.got[0]) != 72 || n.Stats().TooLong != 1 {
			t.Errorf("arrived %q, stats %+v", s.got, n.Stats())
		}
	})
}

func TestHeldBackIsOvertaken(t *testing.T) {
	link := Link{Delay: time.Millisecond, HoldBack: 0.3, HoldBackBy: time.Second}
	inBubble(t, Config{Seed: 1, Link: link}, func(t *testing.T, n *Net, s *sink) {
		const count = 100
		sendNumbers(n, count)
		rest()
		st := n.Stats()
		if len(s.got) != count || st.HeldBack < 10 || st.HeldBack > 60 {
			t.Fatalf("%d arrived, stats %+v", len(s.got), st)
		}
		late := 0
		for _, at := range s.at {
			if at >= time.Second {
				late++
			}
		}
		if late != st.HeldBack {
			t.Errorf("%d late, %d held back", late, st.HeldBack)
		}
	})
}

func TestDuplicateAndCorrupt(t *testing.T) {
	inBubble(t, Config{Link: Link{Duplicate: 1, Corrupt: 1}}, func(t *testing.T, n *Net, s *sink) {
		sent := []byte{0, 0, 0, 0}
		n.Send(hostA, hostB, 0, sent)
		rest()
		if len(s.got) != 2 || s.got[0] != s.got[1] {
			t.Fatalf("arrived %q", s.got)
		}
		ones := 0
		for _, c := range []byte(s.got[0]) {
			for ; c != 0; c &= c - 1 {
				ones++
			}
		}
		if ones != 1 {
			t.Errorf("%x became %x", sent, s.got[0])
		}
	})
}

// TestSeedDecides sees to it that a run depends on its seed alone, and a link
// on nothing that happens on others.
func TestSeedDecides(t *testing.T) {
	run := func(seed uint64, others bool) (got string) {
		link := Link{Delay: time.Microsecond, Loss: 0.2, Duplicate: 0.2, Corrupt: 0.2, HoldBack: 0.2}
		inBubble(t, Config{Seed: seed, Link: link}, func(t *testing.T, n *Net, s *sink) {
			for i := range 50 {
				if others {
					n.Send(hostB, hostA, 0, []byte("other"))
				}
				n.Send(hostA, hostB, 0, binary.BigEndian.AppendUint32(nil, uint32(i)))
			}
			rest()
			got = fmt.Sprintf("%x", s.got)
		})
		return got
	}
	first := run(1, false)
	if run(1, false) != first {
		t.Error("the same seed gave another run")
	}
	if run(1, true) != first {
		t.Error("traffic on another link changed the run")
	}
	if run(2, false) == first {
		t.Error("another seed gave the same run")
	}
}

func TestSetLinkIsOfOneDirection(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, n *Net, s *sink) {
		back := &sink{begin: s.begin}
		detach, err := n.Attach(hostA, back.receive)
		if err != nil {
			t.Fatal(err)
		}
		defer detach()
		if err := n.SetLink(hostA.Addr(), hostB.Addr(), Link{Loss: 1}); err != nil {
			t.Fatal(err)
		}
		n.Send(hostA, hostB, 0, []byte("there"))
		n.Send(hostB, hostA, 0, []byte("back"))
		rest()
		if len(s.got) != 0 || len(back.got) != 1 || n.Stats().Lost != 1 {
			t.Errorf("arrived %q and %q, stats %+v", s.got, back.got, n.Stats())
		}
	})
}

// A failing is a test that has failed, and whose cleanups can be run.
type failing struct {
	testing.TB
	cleanups []func()
}

func (f *failing) Name() string        { return "Test/of a capture" }
func (f *failing) Failed() bool        { return true }
func (f *failing) Logf(string, ...any) {}
func (f *failing) Cleanup(fn func())   { f.cleanups = append(f.cleanups, fn) }

func TestCaptureIsReadable(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	a6, b6 := netip.MustParseAddrPort("[2001:db8::1]:4791"), netip.MustParseAddrPort("[2001:db8::2]:4791")
	for _, closed := range []bool{false, true} {
		drop := func(n int, b []byte) bool { return string(b) == "lost" }
		inBubble(t, Config{Link: Link{Drop: drop, Delay: time.Millisecond}}, func(t *testing.T, n *Net, s *sink) {
			f := &failing{TB: t}
			n.Capture(f)
			n.Send(hostA, hostB, 9, []byte("hello"))
			n.Send(b6, a6, 0, []byte("six"))
			n.Send(hostA, hostB, 0, []byte("lost"))
			rest()
			if closed {
				n.Close()
			}
			for _, fn := range f.cleanups {
				fn()
			}
		})
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), "Test_of_a_capture-") {
			t.Errorf("the capture is called %q", file.Name())
		}
		checkCapture(t, dir+"/"+file.Name(), hostA, b6)
	}
}

func checkCapture(t *testing.T, name string, from4, from6 netip.AddrPort) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte("dropped by script")) || !bytes.Contains(data, []byte("arrives after 1ms")) {
		t.Error("the capture does not say what became of its packets")
	}
	packets := packetsOf(data)
	if len(packets) != 3 {
		t.Fatalf("%d packets captured, want 3", len(packets))
	}
	for i, want := range []struct {
		from    netip.AddrPort
		payload string
		ident   uint16
	}{{from4, "hello", 9}, {from6, "six", 0}, {from4, "lost", 0}} {
		raw := packets[i]
		first := gopacket.LayerType(layers.LayerTypeIPv4)
		if raw[0]>>4 == 6 {
			first = layers.LayerTypeIPv6
		}
		p := gopacket.NewPacket(raw, first, gopacket.Default)
		udp, ok := p.TransportLayer().(*layers.UDP)
		if !ok || p.ErrorLayer() != nil {
			t.Fatalf("packet %d: no UDP: %v", i, p)
		}
		src, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
		if src != want.from.Addr() || uint16(udp.SrcPort) != want.from.Port() || string(udp.Payload) != want.payload {
			t.Errorf("packet %d is %v", i, p)
		}
		if err := udp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
		if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
			t.Errorf("packet %d: checksums: %v, %v", i, bad, err)
		}
		if ip, ok := p.NetworkLayer().(*layers.IPv4); ok && (ip.Id != want.ident || ip.Flags != layers.IPv4DontFragment) {
			t.Errorf("packet %d: ID %d, flags %v", i, ip.Id, ip.Flags)
		}
	}
}

// packetsOf returns the packets of a capture: the data of its blocks of type 6.
func packetsOf(b []byte) (packets [][]byte) {
	for len(b) >= 12 {
		kind, size := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if kind == 6 {
			packets = append(packets, b[28:][:binary.LittleEndian.Uint32(b[20:])])
		}
		b = b[size:]
	}
	return packets
}
