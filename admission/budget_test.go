package admission

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/fabrid/fabrid/lockdep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func hostN(n int) Host {
	return Host{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), uint64(n)}
}

// empty reports what is still charged.
func empty(t interface{ Errorf(string, ...any) }, b *Budget) {
	if s := b.Stats(); s.Used != (Usage{}) || s.Hosts != 0 {
		t.Errorf("still charged: %+v", s)
	}
	if b.line.hosts.Len() != 0 {
		t.Errorf("somebody is in the line")
	}
}

func TestTake(t *testing.T) {
	for _, c := range []struct {
		name   string
		cfg    Config
		port   Limits
		bytes  []int64
		want   string // of the last one
		reason string
	}{
		{"no bound", Config{}, Limits{}, []int64{1 << 62, 1 << 40}, "", ""},
		{"at the bounds", Config{Target: Limits{Queues: 2, Bytes: 10, Connecting: 2}}, Limits{Queues: 2}, []int64{4, 6}, "", ""},
		{"a queue too many", Config{Target: Limits{Queues: 1}}, Limits{Queues: 1}, []int64{0, 0},
			"admission: 1 more queues on top of 1 pass the limit of 1 of the target", "target_queues"},
		{"a byte too many", Config{Target: Limits{Bytes: 10}}, Limits{}, []int64{4, 7},
			"admission: 7 more bytes on top of 4 pass the limit of 10 of the target", "target_bytes"},
		{"more than there can be", Config{Target: Limits{Bytes: 1<<63 - 1}}, Limits{}, []int64{1<<63 - 1, 1<<63 - 1},
			"admission: 9223372036854775807 more bytes on top of 9223372036854775807 pass the limit of 9223372036854775807 of the target", "target_bytes"},
		{"too many connecting", Config{Target: Limits{Connecting: 1}}, Limits{}, []int64{0, 0},
			"admission: 1 more connecting on top of 1 pass the limit of 1 of the target", "target_connecting"},
		{"a queue too many for the port", Config{Target: Limits{Queues: 2}}, Limits{Queues: 1}, []int64{0, 0},
			"admission: 1 more queues on top of 1 pass the limit of 1 of the port", "port_queues"},
		{"a byte too many for the host", Config{Host: Limits{Bytes: 1}}, Limits{}, []int64{1, 1},
			"admission: 1 more bytes on top of 1 pass the limit of 1 of the host", "host_bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := New(c.cfg)
			p := b.NewPort(c.port)
			var err error
			grants := make([]Grant, len(c.bytes))
			for i, n := range c.bytes {
				if err = p.Take(&grants[i], hostN(1), n); err != nil && i < len(c.bytes)-1 {
					t.Fatal(err)
				}
			}
			want := len(c.bytes)
			if c.want != "" {
				want--
				var ae *Error
				if !errors.As(err, &ae) || err.Error() != c.want || ae.Reason() != c.reason {
					t.Errorf("error %v, want %s", err, c.want)
				}
			} else if err != nil {
				t.Error(err)
			}
			if got := b.Stats().Used.Queues; got != want || p.Used().Queues != want {
				t.Errorf("%d queues charged, want %d", got, want)
			}
			for i := range grants[:want] {
				grants[i].Return()
			}
			empty(t, b)
			if most := b.Stats().Most.Queues; most != want {
				t.Errorf("there were %d at most, want %d", most, want)
			}
		})
	}
}

// The bound of a host is for each of them.
func TestHostsAreBoundApart(t *testing.T) {
	b := New(Config{Host: Limits{Queues: 1}})
	p := b.NewPort(Limits{})
	var a, a2, c Grant
	if err := errors.Join(p.Take(&a, hostN(1), 0), p.Take(&c, hostN(2), 0)); err != nil {
		t.Fatal(err)
	}
	if err := p.Take(&a2, hostN(1), 0); err == nil {
		t.Error("a host has two queues")
	}
	a.Return()
	if err := p.Take(&a2, hostN(1), 0); err != nil {
		t.Error(err)
	}
	a2.Return()
	c.Return()
	empty(t, b)
}

func panics(t *testing.T, want string, fn func()) {
	t.Helper()
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("panic %q, want %q", got, want)
		}
	}()
	fn()
}

func TestMisuse(t *testing.T) {
	b := New(Config{Target: Limits{Bytes: 10}})
	p := b.NewPort(Limits{})
	var g, never Grant
	panics(t, "return of a grant that has been asked for nothing", never.Return)
	panics(t, "take of -1 bytes", func() { _ = p.Take(&g, hostN(1), -1) })
	if err := p.Take(&g, hostN(1), 10); err != nil {
		t.Fatalf("the budget is not what it was: %v", err)
	}
	panics(t, "take of a grant that is held", func() { _ = p.Take(&g, hostN(1), 0) })
	g.Return()
	panics(t, "return of a grant that has been returned", g.Return)
	panics(t, "connected of a grant that has been returned", g.Connected)
	empty(t, b)
}

// A waiter is an admin queue that waits.
type waiter struct {
	Grant
	in bool
}

func wait(t *testing.T, p *Port, who int, bytes int64) *waiter {
	t.Helper()
	w := new(waiter)
	if err := p.Wait(&w.Grant, hostN(who), bytes, 0, func() { w.in = true }); err != nil {
		t.Fatal(err)
	}
	return w
}

// Each host in turn, in a host the first that came.
func TestTurns(t *testing.T) {
	b := New(Config{Target: Limits{Queues: 2}})
	p := b.NewPort(Limits{})
	var full Grant
	if err := p.Take(&full, hostN(9), 0); err != nil {
		t.Fatal(err)
	}
	var all []*waiter
	hosts := []int{1, 1, 1, 2, 3, 2}
	for _, h := range hosts {
		w := wait(t, p, h, 0)
		w.Ready()
		all = append(all, w)
	}
	var got []int
	last := &full
	for range all {
		last.Return()
		for i, w := range all {
			if w.in && !slices.Contains(got, i) {
				got, last = append(got, i), &w.Grant
			}
		}
	}
	if want := []int{0, 3, 4, 1, 5, 2}; !slices.Equal(got, want) {
		t.Errorf("they came in in the order %v, want %v", got, want)
	}
	last.Return()
	empty(t, b)
}

// Who only his own bound stops is passed over, whom the target has no room for
// is not.
func TestOvertaking(t *testing.T) {
	b := New(Config{Target: Limits{Queues: 10, Bytes: 10}, Host: Limits{Queues: 3}})
	p := b.NewPort(Limits{})
	first := wait(t, p, 1, 1)
	first.Ready()
	second := wait(t, p, 1, 1) // a third queue and a fourth
	second.Ready()
	large := wait(t, p, 2, 10)
	large.Ready()
	little := wait(t, p, 3, 1)
	little.Ready()
	if !first.in || second.in || large.in || little.in {
		t.Fatalf("in are %t %t %t %t, want the first", first.in, second.in, large.in, little.in)
	}
	why, waited := large.Cancel()
	if !waited || why == nil || why.Error() != "admission: 10 more bytes on top of 1 pass the limit of 10 of the target" {
		t.Errorf("cancel: %v, %t", why, waited)
	}
	if !little.in || second.in {
		t.Error("who was behind it waits still, or its host passed its bound")
	}
	if why, waited := second.Cancel(); !waited || why == nil {
		t.Errorf("cancel: %v, %t", why, waited)
	}
	if _, waited := little.Cancel(); waited {
		t.Error("a wait that is over was cancelled")
	}
	first.Return()
	little.Return()
	empty(t, b)
}

func TestWaitRefusesWhatCannotBe(t *testing.T) {
	b := New(Config{Target: Limits{Queues: 8, Waiting: 1}, Host: Limits{Bytes: 5}})
	p := b.NewPort(Limits{})
	var g Grant
	err := p.Wait(&g, hostN(1), 3, 3, func() { t.Error("admitted") })
	if err == nil || err.Error() != "admission: 6 more bytes on top of 0 pass the limit of 5 of the host" {
		t.Errorf("error %v", err)
	}
	w := wait(t, p, 2, 0)
	if err := p.Wait(&g, hostN(1), 0, 0, func() { t.Error("admitted") }); err == nil || err.Error() != "admission: 1 more waiting on top of 1 pass the limit of 1 of the target" {
		t.Errorf("error %v", err)
	}
	if why, waited := w.Cancel(); why != nil || !waited {
		t.Errorf("cancel before its turn: %v, %t", why, waited)
	}
	w.Ready() // too late, as a barrier may be
	empty(t, b)
}

// An admin queue brings room for one I/O queue.
func TestReservation(t *testing.T) {
	b := New(Config{Target: Limits{Queues: 5, Bytes: 100}})
	p := b.NewPort(Limits{})
	admins := make([]*waiter, 3)
	for i := range admins {
		admins[i] = new(waiter)
		w := admins[i]
		if err := p.Wait(&w.Grant, hostN(1), 10, 10, func() { w.in = true }); err != nil {
			t.Fatal(err)
		}
		w.Ready()
	}
	if !admins[0].in || !admins[1].in || admins[2].in {
		t.Fatal("five queues are room for two controllers")
	}
	if n := admins[0].Reserve(1, 4); n != 2 {
		t.Errorf("%d queues reserved, want its own and the free one", n)
	}
	if n := admins[1].Reserve(2, 4); n != 1 {
		t.Errorf("%d queues reserved, want its own", n)
	}
	if u := b.Stats().Used; u.Queues != 5 || u.Reserved != 3 || u.Bytes != 50 {
		t.Errorf("used %+v", u)
	}

	// A queue of the second controller comes without saying so, and is settled.
	var io [4]Grant
	if err := p.TakeReserved(&io[0], hostN(1), 0, 5); err != nil {
		t.Fatal(err)
	}
	if n := admins[0].Reserved(); n != 1 {
		t.Fatalf("%d of the first are left, want 1", n)
	}
	io[0].Settle(&admins[1].Grant)
	if a, b := admins[0].Reserved(), admins[1].Reserved(); a != 2 || b != 0 {
		t.Errorf("%d and %d are left after the exchange, want 2 and 0", a, b)
	}
	if err := p.TakeReserved(&io[1], hostN(1), 2, 10); err == nil {
		t.Error("a queue more than the second has reserved, and none is free")
	}
	if err := p.TakeReserved(&io[2], hostN(1), 1, 10); err != nil {
		t.Error(err)
	}
	if err := p.TakeReserved(&io[3], hostN(2), 1, 10); err == nil {
		t.Error("another host took what was reserved")
	}
	admins[0].Unreserve()
	admins[0].Unreserve()
	if admins[2].in {
		t.Error("the third is in, with room for one queue")
	}
	admins[0].Return()
	if !admins[2].in {
		t.Error("the third waits though there is room")
	}
	// Before it says how many it wants, any queue of its host's will do.
	if err := p.TakeReserved(&io[1], hostN(1), 9, 10); err != nil {
		t.Error(err)
	}
	for _, g := range []*Grant{&io[0], &io[1], &io[2], &admins[1].Grant, &admins[2].Grant} {
		g.Connected()
		g.Connected()
		g.Return()
	}
	admins[1].Unreserve() // too late
	empty(t, b)
}

// Who has reserved comes in though others fill the cap on connecting.
func TestReservedPassTheConnectingCap(t *testing.T) {
	b := New(Config{Target: Limits{Connecting: 2}})
	p := b.NewPort(Limits{})
	admin := wait(t, p, 1, 0)
	admin.Ready()
	var other, io, more Grant
	if n := admin.Reserve(1, 1); n != 1 {
		t.Fatalf("%d reserved", n)
	}
	if err := p.Take(&other, hostN(2), 0); err != nil {
		t.Fatal(err)
	}
	if err := p.TakeReserved(&io, hostN(1), 1, 0); err != nil {
		t.Error(err)
	}
	if err := p.TakeReserved(&more, hostN(1), 1, 0); err == nil {
		t.Error("the cap is passed by one who has not reserved")
	}
	for _, g := range []*Grant{&admin.Grant, &other, &io} {
		g.Return()
	}
	empty(t, b)
}

// Whatever is done, what is charged is what is held, the bounds hold, whoever
// can be let in is, and at the end nothing is left.
// Of a queue that is gone its bytes may stay charged, and nothing else.
func TestOrphan(t *testing.T) {
	b := New(Config{Target: Limits{Queues: 3, Bytes: 100}})
	p := b.NewPort(Limits{})
	var admin, next Grant
	if err := p.Wait(&admin, hostN(1), 30, 40, func() {}); err != nil {
		t.Fatal(err)
	}
	admin.Ready()
	in := false
	if err := p.Wait(&next, hostN(2), 30, 40, func() { in = true }); err != nil {
		t.Fatal(err)
	}
	next.Ready()
	admin.Orphan()
	if s := b.Stats(); !in || s.OrphanedBytes != 30 || s.Used != (Usage{Queues: 2, Bytes: 100, Connecting: 1, Reserved: 1}) {
		t.Errorf("another is in: %v; %+v", in, s)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("orphaned twice")
			}
		}()
		admin.Orphan()
	}()
	admin.Return()
	next.Return()
	if n := b.Stats().OrphanedBytes; n != 0 {
		t.Errorf("%d bytes are orphaned", n)
	}
	empty(t, b)
}

func TestAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{
			Target: Limits{Queues: rapid.IntRange(0, 8).Draw(t, "queues"), Bytes: rapid.Int64Range(0, 100).Draw(t, "bytes"),
				Connecting: rapid.IntRange(0, 5).Draw(t, "connecting"), Waiting: rapid.IntRange(0, 5).Draw(t, "waiting")},
			Host: Limits{Queues: rapid.IntRange(0, 4).Draw(t, "host queues")},
		}
		b := New(cfg)
		ports := []*Port{b.NewPort(Limits{}), b.NewPort(Limits{Queues: 3})}
		var held, waiting []*waiter
		draw := func() (*Port, Host, int64) {
			return rapid.SampledFrom(ports).Draw(t, "port"), hostN(rapid.IntRange(1, 3).Draw(t, "host")), rapid.Int64Range(0, 40).Draw(t, "n")
		}
		pick := func(l *[]*waiter) *waiter {
			if len(*l) == 0 {
				t.Skip("none")
			}
			i := rapid.IntRange(0, len(*l)-1).Draw(t, "i")
			w := (*l)[i]
			*l = slices.Delete(*l, i, i+1)
			return w
		}
		admin := func() *waiter {
			var all []*waiter
			for _, w := range held {
				if w.admin {
					all = append(all, w)
				}
			}
			if len(all) == 0 {
				t.Skip("none")
			}
			return rapid.SampledFrom(all).Draw(t, "admin")
		}
		sweep := func() {
			waiting = slices.DeleteFunc(waiting, func(w *waiter) bool {
				if w.in {
					held = append(held, w)
				}
				return w.in
			})
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(*rapid.T) {
				p, h, n := draw()
				w := new(waiter)
				if p.Take(&w.Grant, h, n) == nil {
					held = append(held, w)
				}
			},
			"take reserved": func(*rapid.T) {
				p, h, n := draw()
				w := new(waiter)
				if p.TakeReserved(&w.Grant, h, uint16(rapid.IntRange(0, 2).Draw(t, "cntlid")), n) == nil {
					held = append(held, w)
				}
			},
			"wait": func(*rapid.T) {
				p, h, n := draw()
				w := new(waiter)
				if p.Wait(&w.Grant, h, n, 7, func() { w.in = true }) == nil {
					waiting = append(waiting, w)
				}
			},
			"ready": func(*rapid.T) {
				w := pick(&waiting)
				waiting = append(waiting, w)
				w.Ready()
				sweep()
			},
			"cancel": func(*rapid.T) {
				if _, waited := pick(&waiting).Cancel(); !waited {
					t.Fatal("did not wait")
				}
				sweep()
			},
			"return":    func(*rapid.T) { pick(&held).Return(); sweep() },
			"connected": func(*rapid.T) { w := pick(&held); held = append(held, w); w.Connected(); sweep() },
			"reserve": func(*rapid.T) {
				w := admin()
				w.Reserve(uint16(rapid.IntRange(1, 2).Draw(t, "cntlid")), rapid.IntRange(0, 5).Draw(t, "n"))
				sweep()
			},
			"unreserve": func(*rapid.T) { admin().Unreserve(); sweep() },
			"settle": func(*rapid.T) {
				w := pick(&held)
				held = append(held, w)
				w.Settle(&admin().Grant)
				sweep()
			},
			"": func(*rapid.T) {
				want := Usage{Waiting: len(waiting)}
				for _, w := range held {
					want.Queues += 1 + w.left
					want.Reserved += w.left
					want.Bytes += w.bytes + int64(w.left)*w.each
					if w.connecting {
						want.Connecting++
					}
				}
				if got := b.Stats().Used; got != want {
					t.Fatalf("used %+v, held %+v", got, want)
				}
				if l := cfg.Target; l.Queues > 0 && want.Queues > l.Queues || l.Bytes > 0 && want.Bytes > l.Bytes || l.Waiting > 0 && want.Waiting > l.Waiting {
					t.Fatalf("%+v passes %+v", want, l)
				}
				for _, h := range b.hosts {
					n := 0
					for g := h.admins.First(); g != nil; g = h.admins.Next(g) {
						n++
						if g.host != h {
							t.Fatal("the list of admin queues is broken")
						}
					}
					for _, w := range held {
						if w.host == h && w.admin {
							n--
						}
					}
					if n != 0 {
						t.Fatalf("%d admin queues too many in the list", n)
					}
				}
				for _, w := range waiting {
					if w.state == ready && w.host.waiting.First() == &w.Grant && !w.host.inLine {
						t.Fatal("one whose turn has come is not in the line")
					}
				}
				if h := b.line.hosts.First(); h != nil {
					if _, ok := h.waiting.First().port.fitsLocked(h, h.waiting.First().whole()); ok {
						t.Fatal("the first in the line waits though there is room")
					}
				}
			},
		})
		for _, w := range waiting {
			w.Cancel()
		}
		sweep()
		for _, w := range waiting {
			w.Cancel() // one that came in meanwhile is held
		}
		for len(held) > 0 {
			w := held[0]
			held = held[1:]
			w.Return()
			sweep()
		}
		empty(t, b)
	})
}

// A release needs no memory: returning a charge and letting in who waits.
func TestReturnDoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the validator allocates")
	}
	b := New(Config{Target: Limits{Queues: 2}})
	p := b.NewPort(Limits{})
	all := make([]waiter, 200)
	for i := range all {
		w := &all[i]
		if err := p.Wait(&w.Grant, hostN(i%7), 0, 0, func() { w.in = true }); err != nil {
			t.Fatal(err)
		}
		w.Ready()
	}
	done := make(map[int]bool)
	n := testing.AllocsPerRun(100, func() {
		for i := range all {
			if all[i].in && !done[i] {
				done[i] = true
				all[i].Return()
				return
			}
		}
	})
	if n > 0.1 { // the map of the test's grows
		t.Errorf("a return allocates %.2f times", n)
	}
	for i := range all {
		if !done[i] {
			all[i].Cancel()
		}
	}
	for i := range all {
		if all[i].in && !done[i] {
			all[i].Return()
		}
	}
	empty(t, b)
}
