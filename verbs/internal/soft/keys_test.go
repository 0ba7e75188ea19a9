package soft

import (
	"math"
	"testing"

	"github.com/fabrid/fabrid/verbs"
)

type domain struct{ int }

func TestRemote(t *testing.T) {
	var k Keys
	d, other := &domain{1}, &domain{2}
	buf := make([]byte, 100)
	r, err := k.Register(d, buf, 1000, verbs.AccessRemoteRead)
	if err != nil {
		t.Fatal(err)
	}
	top, err := k.Register(d, buf, math.MaxUint64-100, verbs.AccessRemoteRead)
	if err != nil {
		t.Fatal(err)
	}
	const read, write = verbs.AccessRemoteRead, verbs.AccessRemoteWrite
	for _, c := range []struct {
		name   string
		domain any
		key    uint32
		va, n  uint64
		need   verbs.Access
		want   Fault
	}{
		{"all", d, r.RKey(), 1000, 100, read, OK},
		{"last byte", d, r.RKey(), 1099, 1, read, OK},
		{"nothing at the end", d, r.RKey(), 1100, 0, read, OK},
		{"one before", d, r.RKey(), 999, 1, read, Range},
		{"one beyond", d, r.RKey(), 1000, 101, read, Range},
		{"beyond by offset", d, r.RKey(), 1100, 1, read, Range},
		{"length wraps", d, r.RKey(), 1001, math.MaxUint64, read, Range},
		{"address wraps", d, top.RKey(), 5, 10, read, Range},
		{"top of the space", d, top.RKey(), math.MaxUint64 - 1, 1, read, OK},
		{"write", d, r.RKey(), 1000, 1, write, Denied},
		{"other domain", other, r.RKey(), 1000, 1, read, BadKey},
		{"other key byte", d, r.RKey() ^ 1, 1000, 1, read, BadKey},
		{"other index", d, r.RKey() + 5<<8, 1000, 1, read, BadKey},
		{"far index", d, math.MaxUint32, 1000, 1, read, BadKey},
		{"the local key", d, LocalDMALKey, 1000, 1, read, BadKey},
	} {
		b, got := k.Remote(c.domain, c.key, c.va, c.n, c.need)
		if got != c.want || got == OK && uint64(len(b)) != c.n {
			t.Errorf("%s: %v with %d bytes, want %v", c.name, got, len(b), c.want)
		}
	}
	if _, err := k.Register(d, buf, math.MaxUint64-10, read); err == nil {
		t.Error("a region that wraps was registered")
	}
	for _, r := range []*Region{r, top} {
		if err := k.Remove(r); err != nil {
			t.Error(err)
		}
		if _, f := k.Remote(d, r.RKey(), r.iova, 1, read); f != BadKey {
			t.Errorf("a removed region: %v", f)
		}
	}
	if k.Remove(r) == nil {
		t.Error("a region was removed twice")
	}
	if k.Count() != 0 {
		t.Errorf("%d regions are left", k.Count())
	}
}

func TestFastRegistration(t *testing.T) {
	var k Keys
	d := &domain{1}
	r, err := k.Alloc(d, 64)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	const write = verbs.AccessRemoteWrite
	first := r.RKey()
	if _, f := k.Remote(d, first, 0, 1, write); f != BadKey {
		t.Errorf("an unregistered region: %v", f)
	}
	if k.FastRegister(r, d, make([]byte, 65), 0, write, first) {
		t.Error("registered more than its length")
	}
	if k.FastRegister(r, d, buf, 0, write, first+1<<8) {
		t.Error("registered under another index")
	}
	second := first&^0xff | uint32(uint8(first)+1)
	if !k.FastRegister(r, d, buf, 7, write, second) {
		t.Fatal("not registered")
	}
	if k.FastRegister(r, d, buf, 7, write, second) {
		t.Error("registered while valid")
	}
	if _, f := k.Remote(d, second, 7, 64, write); f != OK {
		t.Errorf("registered: %v", f)
	}
	if _, f := k.Remote(d, first, 7, 64, write); f != BadKey {
		t.Errorf("the key of before: %v", f)
	}
	if k.Invalidate(&domain{1}, second) {
		t.Error("invalidated from another domain")
	}
	if !k.Invalidate(d, second) || k.Invalidate(d, second) {
		t.Error("want one invalidation to work, and one only")
	}
	fixed, err := k.Register(d, buf, 0, write)
	if err != nil {
		t.Fatal(err)
	}
	if k.Invalidate(d, fixed.RKey()) {
		t.Error("a peer invalidated a region that is not for fast registration")
	}
}

func TestLocal(t *testing.T) {
	var k Keys
	d := &domain{1}
	mem := make([]byte, 300)
	r, err := k.Register(d, mem[100:200], 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		sge  verbs.SGE
		need verbs.Access
		want Fault
	}{
		{"inside", verbs.SGE{Buf: mem[100:200], LKey: r.LKey()}, 0, OK},
		{"before", verbs.SGE{Buf: mem[99:101], LKey: r.LKey()}, 0, Range},
		{"beyond", verbs.SGE{Buf: mem[199:201], LKey: r.LKey()}, 0, Range},
		{"elsewhere", verbs.SGE{Buf: mem[250:], LKey: r.LKey()}, 0, Range},
		{"write", verbs.SGE{Buf: mem[100:101], LKey: r.LKey()}, verbs.AccessLocalWrite, Denied},
		{"no key", verbs.SGE{Buf: mem[100:101]}, 0, BadKey},
		{"all memory", verbs.SGE{Buf: mem, LKey: LocalDMALKey}, verbs.AccessLocalWrite, OK},
	} {
		if got := k.Local(d, []verbs.SGE{c.sge}, c.need); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestIndicesRest(t *testing.T) {
	var k Keys
	seen := map[uint32]bool{}
	for i := range 64 {
		r, err := k.Alloc(nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.index] {
			t.Fatalf("index %d came back after %d registrations", r.index, i)
		}
		seen[r.index] = true
		if err := k.Remove(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecvQueue(t *testing.T) {
	q := NewRecvQueue(3, 2)
	post := func(ids ...uint64) error {
		var wrs []verbs.RecvWR
		for _, id := range ids {
			wrs = append(wrs, verbs.RecvWR{WRID: id, SG: []verbs.SGE{{Buf: make([]byte, id)}, {Buf: make([]byte, 1)}}})
		}
		if err := q.Room(wrs); err != nil {
			return err
		}
		q.Post(wrs)
		return nil
	}
	next := uint64(1)
	sg := make([]verbs.SGE, 2)
	for id := uint64(1); id < 20; id += 2 {
		if err := post(id, id+1); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r, ok := q.Take(sg)
			if !ok || r.WRID != next || r.Len != int(next)+1 || len(r.SG) != 2 || len(r.SG[0].Buf) != int(next) {
				t.Fatalf("took %+v, want receive %d", r, next)
			}
			next++
		}
	}
	if _, ok := q.Take(sg); ok {
		t.Error("took from an empty queue")
	}
	if err := post(7, 8); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{7, 8} {
		if id, ok := q.Drop(); !ok || id != want {
			t.Errorf("dropped %d, want %d", id, want)
		}
	}
	if _, ok := q.Drop(); ok {
		t.Error("dropped from an empty queue")
	}
	for i, s := range q.sges {
		if s.Buf != nil {
			t.Errorf("element %d of an empty queue names %d bytes", i, len(s.Buf))
		}
	}
	if err := post(1, 2, 3, 4); err != verbs.ErrQueueFull || q.Len() != 0 {
		t.Errorf("four into three: %v, %d posted", err, q.Len())
	}
	if err := q.Room([]verbs.RecvWR{{SG: make([]verbs.SGE, 3)}}); err != verbs.ErrTooManySGE {
		t.Errorf("three elements where two go: %v", err)
	}
}
