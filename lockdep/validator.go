package lockdep

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// A Config says how a validator behaves. The zero value is a validator that
// panics with each report.
type Config struct {
	// Report takes a report, on the goroutine that caused it, before that
	// goroutine blocks. It may use no lock of this package. If it returns, the
	// operation goes on as it would without the validator; the order that was
	// reported is not recorded, and is not reported to Report again. (A second
	// lock of the very mutex that the goroutine holds cannot go on: it panics
	// after Report has returned.) If Report is nil, the validator panics with
	// the *Report.
	Report func(*Report)
}

// A Validator knows the order in which locks of each class have been taken by
// the goroutines that belong to it. Goroutines belong to a validator of the
// process, which panics with each report, unless they run inside [Validator.Run]
// or were started from there with [Go].
//
// A test that provokes a report on purpose runs in a validator of its own, so
// that the orders it shows poison no other test. Without the build tag a
// Validator does nothing.
type Validator struct {
	report func(*Report)

	mu       sync.RWMutex // guards below; nothing else is locked under it
	classes  map[key]*class
	reported map[reportKey]bool
}

// standard is the validator of goroutines that were given no other.
var standard = NewValidator(Config{})

// NewValidator returns a validator that has seen nothing.
func NewValidator(c Config) *Validator {
	return &Validator{
		report:   c.Report,
		classes:  make(map[key]*class),
		reported: make(map[reportKey]bool),
	}
}

// Current returns the validator that the calling goroutine belongs to.
func Current() *Validator {
	if !Enabled {
		return standard
	}
	g := goroutines.get()
	v := g.v
	goroutines.put(g)
	return v
}

// Run calls f; until f returns, the calling goroutine belongs to v. Locks held
// when Run is called are not seen inside, and f must release what it takes:
// that it has not is a report. Calls may be nested.
func (v *Validator) Run(f func()) {
	if !Enabled {
		f()
		return
	}
	g := goroutines.get()
	outer := *g
	g.v, g.scoped, g.held = v, true, nil
	returned := false
	defer func() {
		held := g.held
		g.v, g.scoped, g.held = outer.v, outer.scoped, outer.held
		goroutines.put(g)
		if returned {
			v.checkNoneHeld(held, "the end of Run")
		}
	}()
	f()
	returned = true
}

// Go runs f in a new goroutine that belongs to v.
func (v *Validator) Go(f func()) {
	if !Enabled {
		go f()
		return
	}
	go v.Run(f)
}

// Go runs f in a new goroutine that belongs to the caller's validator. It is
// the go statement for those who want tests to be able to watch what they start.
func Go(f func()) {
	if !Enabled {
		go f()
		return
	}
	Current().Go(f)
}

// AssertNoneHeld reports, with the validator, that the calling goroutine holds
// a lock or a Map. It stands where a goroutine must hold none, such as an event
// loop's wait; where says so in the report.
func AssertNoneHeld(where string) {
	if !Enabled {
		return
	}
	g := goroutines.get()
	defer goroutines.put(g)
	g.v.checkNoneHeld(g.held, where)
}

// A key identifies a class.
type key struct {
	typ   reflect.Type
	name  string // of a Map
	level int
}

// String names the class as a report does: `rdmacm.handlerMutex/1`,
// `(wq_completion)"delete"`. A class type with a String method names itself.
func (k key) String() string {
	s := k.typ.String()
	if n, ok := reflect.Zero(k.typ).Interface().(fmt.Stringer); ok {
		s = n.String()
	}
	if k.name != "" {
		s = fmt.Sprintf("(%s)%q", s, k.name)
	}
	if k.level != 0 {
		s = fmt.Sprintf("%s/%d", s, k.level)
	}
	return s
}

// A class is a node of the graph.
type class struct {
	key
	after map[*class]*edge // guarded by Validator.mu
}

// An edge says that from was held when to was taken or, if from was ended, that
// to was held then. It is immutable.
type edge struct {
	from, to  *hold
	goroutine uint64 // its number, for reports
}

// A mode says how a class is acquired.
type mode uint8

const (
	blocking mode = iota // may wait for the present holders
	reading              // the same, beside other readers
	sharing              // a Map, beside others: keeps nobody from acquiring it
	trying               // does not wait: no order before it
	touching             // may wait, and then does not hold it
	ending               // lets those go that wait for it
)

// A hold is one acquisition by one goroutine. It is immutable but for gone.
type hold struct {
	class     *class
	object    any    // the lock or Map: a pointer, for identity only
	goroutine uint64 // its key in the registry
	mode      mode
	stack     stack
	gone      atomic.Bool // another goroutine has unlocked it
}

// acquire checks and records that the calling goroutine takes, or waits for,
// object. It is called before what may block, and for trying after success.
func acquire(k key, object any, m mode) *hold {
	g := goroutines.get()
	defer goroutines.put(g) // also when a report panics
	g.held = slices.DeleteFunc(g.held, func(h *hold) bool { return h.gone.Load() })
	if m == touching && len(g.held) == 0 {
		return nil
	}
	v := g.v
	h := &hold{class: v.class(k), object: object, goroutine: g.key, mode: m, stack: callers()}
	if m != trying {
		v.check(g, h)
	}
	if m != touching {
		g.held = append(g.held, h)
	}
	return h
}

// check reports what could deadlock if g waited for h now.
func (v *Validator) check(g *goroutine, h *hold) {
	for _, p := range g.held {
		if p.class == h.class {
			v.emit(recursive(g, p, h))
			readers := p.mode == reading && h.mode == reading
			if p.object == h.object && !readers && !isMap(h.object) {
				panic(recursive(g, p, h)) // it would wait for itself
			}
			return
		}
	}
	// What was waited for in order has the order of those held before it, so
	// the newest such hold speaks for them. A Map is not waited for by those who
	// acquire it, so it has the order of Maps only: who waits for the outer one
	// waits for the inner.
	maps := false // one has spoken
	for _, p := range slices.Backward(g.held) {
		shared := p.mode == sharing
		if shared && maps || !shared && h.mode == sharing {
			continue
		}
		maps = maps || shared
		if r := v.order(g, p, h); r != nil {
			v.emit(r)
		}
		if !shared && p.mode != trying {
			return
		}
	}
}

// end checks and records that the calling goroutine lets go who waits for
// object: they wait for it to come here, and so for what it had to get for that.
func end(k key, object any) {
	g := goroutines.get()
	defer goroutines.put(g)
	var h *hold // made when there is something new
	v := g.v
	c := v.class(k)
	for _, p := range g.held {
		// Who has only tried would have gone another way, had a waiter the lock.
		needed := p.mode == blocking || p.mode == reading
		if !needed || p.class == c || p.gone.Load() || v.known(c, p.class) {
			continue
		}
		if h == nil {
			h = &hold{class: c, object: object, goroutine: g.key, mode: ending, stack: callers()}
		}
		if r := v.order(g, h, p); r != nil {
			v.emit(r)
		}
	}
}

// known tells whether the order is recorded already.
func (v *Validator) known(from, to *class) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return from.after[to] != nil
}

// order records that p is held before h, or returns the report of the cycle
// that this would close.
func (v *Validator) order(g *goroutine, p, h *hold) *Report {
	if v.known(p.class, h.class) {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.class.after[h.class] != nil {
		return nil
	}
	if path := v.pathLocked(h.class, p.class); path != nil {
		return circular(g, p, h, path)
	}
	p.class.after[h.class] = &edge{from: p, to: h, goroutine: GoroutineID()}
	return nil
}

// pathLocked returns a shortest path of edges between two classes, or nil.
func (v *Validator) pathLocked(from, to *class) []*edge {
	via := map[*class]*edge{from: nil}
	for queue := []*class{from}; len(queue) > 0; queue = queue[1:] {
		for next, e := range queue[0].after {
			if _, seen := via[next]; seen {
				continue
			}
			via[next] = e
			if next != to {
				queue = append(queue, next)
				continue
			}
			var path []*edge
			for ; e != nil; e = via[e.from.class] {
				path = append(path, e)
			}
			slices.Reverse(path)
			return path
		}
	}
	return nil
}

// release records that the calling goroutine no longer holds object, or
// reports that it never did. holder is who does, if known.
func release(k key, object any, holder *hold) {
	g := goroutines.get()
	defer goroutines.put(g)
	for i, h := range slices.Backward(g.held) {
		if h.object == object && !h.gone.Load() {
			g.held = slices.Delete(g.held, i, i+1)
			return
		}
	}
	g.v.emit(notHeld(g, k, holder, "release"))
	if holder != nil {
		holder.gone.Store(true)
	}
}

func assertHeld(k key, object any, holder *hold) {
	g := goroutines.get()
	defer goroutines.put(g)
	for _, h := range g.held {
		if h.object == object && !h.gone.Load() {
			return
		}
	}
	g.v.emit(notHeld(g, k, holder, "assert"))
}

func (v *Validator) checkNoneHeld(held []*hold, where string) {
	held = slices.DeleteFunc(slices.Clone(held), func(h *hold) bool { return h.gone.Load() })
	if len(held) > 0 {
		v.emit(stillHeld(held, where))
	}
}

// class returns the node of k.
func (v *Validator) class(k key) *class {
	v.mu.RLock()
	c := v.classes[k]
	v.mu.RUnlock()
	if c != nil {
		return c
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if c = v.classes[k]; c == nil {
		c = &class{key: k, after: make(map[*class]*edge)}
		v.classes[k] = c
	}
	return c
}

// emit delivers r as the validator's Config says.
func (v *Validator) emit(r *Report) {
	if v.report == nil {
		panic(r)
	}
	k := r.key()
	v.mu.Lock()
	again := v.reported[k]
	v.reported[k] = true
	v.mu.Unlock()
	if !again {
		v.report(r)
	}
}

// isMap tells whether object is a Map, which never blocks by itself.
func isMap(object any) bool {
	_, ok := object.(interface{ Touch() })
	return ok
}

// A stack is the program counters of a call, innermost first.
type stack []uintptr

// callers returns the calling goroutine's stack, from acquire's caller on.
func callers() stack {
	var pcs [48]uintptr
	return slices.Clone(pcs[:runtime.Callers(3, pcs[:])])
}
