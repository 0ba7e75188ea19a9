package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/verbs"
)

// steps is the language of the scripts.
var steps []step

func on(pattern string, do func(w *world, m []string) error) {
	steps = append(steps, step{regexp.MustCompile("^" + pattern + "$"), do})
}

// onHost makes a step of a sentence about a host, which is m[1].
func onHost(pattern string, do func(p *peer, m []string) error) {
	on("(H[0-9]+) ?"+pattern, func(w *world, m []string) error { return do(w.peer(m[1]), m) })
}

// onDevice makes a step of a sentence about the target's device.
func onDevice(pattern string, do func(w *world, m []string) error) {
	on(pattern, func(w *world, m []string) error {
		if w.dev == nil {
			return errors.New("T has no device")
		}
		return do(w, m)
	})
}

// onRDMA is onHost of what is there over RDMA only.
func onRDMA(pattern string, do func(p *rdmaHost, m []string) error) {
	onHost(pattern, func(p *peer, m []string) error {
		r, ok := p.end.(*rdmaHost)
		if !ok {
			return errors.New("that is there over RDMA only")
		}
		return do(r, m)
	})
}

func dur(s string) (time.Duration, error) { return time.ParseDuration(s) }

// soon bounds what needs some packets only.
const soon = 1200 * time.Millisecond

func init() {
	on(`T's loop stands still`, func(w *world, _ []string) error { w.haltLoop(); return nil })
	on(`T's loop goes on`, func(w *world, _ []string) error { w.resumeLoop(); return nil })
	on(`hosts promise a sign of life every (\S+)`, func(w *world, m []string) (err error) {
		w.keepAlive, err = dur(m[1])
		return err
	})
	on(`wait (\S+)`, func(_ *world, m []string) error {
		d, err := dur(m[1])
		time.Sleep(d)
		return err
	})
	on(`after (\S+): (.+)`, func(w *world, m []string) error {
		d, err := dur(m[1])
		w.later.Go(func() {
			time.Sleep(d)
			if err := w.step(m[2]); err != nil {
				w.t.Errorf("%s: %v", m[0], err)
			}
		})
		return err
	})

	on(`T has (\d+) queues? (\w+)(?: and (\d+) (\w+))?`, func(w *world, m []string) error {
		want := make(map[string]int)
		for i := 1; i < len(m) && m[i] != ""; i += 2 {
			want[m[i+1]], _ = strconv.Atoi(m[i])
		}
		for end := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
			c := w.node.Queues().Counts()
			got := map[string]int{
				"waiting": c.Waiting, "connecting": c.Connecting, "live": c.Live, "disconnecting": c.Disconnecting, "releasing": c.Releasing,
			}
			maps.DeleteFunc(got, func(_ string, n int) bool { return n == 0 })
			switch {
			case maps.Equal(got, want):
				return nil
			case time.Now().After(end):
				return fmt.Errorf("it has %v; %v", got, w.causes())
			}
		}
	})
	on(`(\d+) commands are with the disk`, func(w *world, m []string) error {
		want, _ := strconv.Atoi(m[1])
		for end := time.Now().Add(soon); w.disk.Held() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("%d are", w.disk.Held())
			}
		}
		return nil
	})
	on(`within (\S+) nothing is left but (\d+) buffers? of the disk's`, func(w *world, m []string) error {
		d, err := dur(m[1])
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(m[2])
		_, err = w.within(d, n)
		return err
	})

	on(`the budget is full`, func(w *world, _ []string) error { w.fillBudget(); return nil })
	on(`the budget has room`, func(w *world, _ []string) error { w.emptyBudget(); return nil })
	onDevice(`T's next queue pair cannot be made`, func(w *world, _ []string) error { w.dev.failQPs.Add(1); return nil })
	onDevice(`T's device completes nothing any more`, func(w *world, _ []string) error { w.dev.swallow.Store(true); return nil })
	onDevice(`T's device is itself again`, func(w *world, _ []string) error { w.dev.swallow.Store(false); return nil })
	onDevice(`T's next accept fails`, func(w *world, _ []string) error { w.dev.failAccepts.Add(1); return nil })

	on(`the disk keeps its reads`, func(w *world, _ []string) error { w.disk.Hold(bdev.Read); return nil })
	on(`the disk will never answer`, func(w *world, _ []string) error { w.stuck = true; return nil })
	on(`the disk answers`, func(w *world, _ []string) error {
		if !w.stuck {
			w.disk.Release()
		}
		return nil
	})
	on(`the disk answers after all`, func(w *world, _ []string) error { w.disk.Release(); return nil })

	on(`T admits no host`, func(w *world, _ []string) error { w.sub.SetHosts(false, nil); return nil })
	on(`T admits all hosts`, func(w *world, _ []string) error { w.sub.SetHosts(true, nil); return nil })
	onDevice(`T's device is removed`, func(w *world, _ []string) error {
		w.removed = true
		return w.dev.Remove(errors.New("unplugged"))
	})
	on(`T's port is removed`, func(w *world, _ []string) error {
		w.down = true
		w.port.Remove()
		return nil
	})
	on(`T's subsystem is removed`, func(w *world, _ []string) error {
		w.down = true
		return w.sub.Remove()
	})
	on(`T's namespace is removed`, func(w *world, _ []string) error {
		if err := w.sub.RemoveNamespace(1); err != nil {
			return err
		}
		w.down = true
		return nil
	})
	on(`T is shut down`, func(w *world, _ []string) error {
		w.down = true
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
		w.later.Go(func() { // in the order of a program's end
			defer cancel()
			if err := errors.Join(w.listener.stopListening(), w.tgt.Close(), w.listener.Shutdown(ctx)); err != nil {
				w.t.Errorf("shut down: %v", err)
			}
		})
		return nil
	})

	onHost(`dials`, func(p *peer, _ []string) error { return p.dial(0) })
	onHost(`reserves an I/O queue`, func(p *peer, _ []string) error { return p.reserveIO() })
	onHost(`dials its I/O queue`, func(p *peer, _ []string) error { return p.dial(1) })
	onHost(`'s I/O queue is let in`, func(p *peer, _ []string) error { return p.queue(1).waitDialed(soon) })
	onHost(`dials a second I/O queue, and is refused at once: (.+)`, func(p *peer, m []string) error {
		if err := p.dial(2); err != nil {
			return err
		}
		begin := time.Now()
		err := expect(p.queue(2).waitDialed(soon), m[2])
		if took := time.Since(begin); took > 10*time.Millisecond {
			err = errors.Join(err, fmt.Errorf("after %v", took))
		}
		return err
	})
	onHost(`is let in`, func(p *peer, _ []string) error { return p.queue(0).waitDialed(soon) })
	onHost(`is refused within (\S+)(?:: (.+))?`, func(p *peer, m []string) error {
		d, err := dur(m[2])
		if err != nil {
			return err
		}
		why := p.queue(0).waitDialed(d)
		if why == nil {
			return errUnexpected
		}
		if m[3] != "" && !regexp.MustCompile(m[3]).MatchString(why.Error()) {
			return fmt.Errorf("is %v", why)
		}
		return nil
	})
	onHost(`is connected`, func(p *peer, _ []string) error { return p.connectAdmin() })
	onHost(`sends Connect( on its I/O queue)? for (\S+) and hears (.+)`, func(p *peer, m []string) error {
		return expect(p.connect(qidOf(m[2]), m[3]).wait(), m[4])
	})
	onHost(`sends Connect without an answer`, func(p *peer, _ []string) error { p.connect(0, subNQN); return nil })
	onRDMA(`sends Connect( on its I/O queue)? with a wrong key`, func(p *rdmaHost, m []string) error {
		p.withWrongKey(func() { p.connect(qidOf(m[2]), subNQN) })
		return nil
	})
	onRDMA(`sends Identify with a wrong key`, func(p *rdmaHost, _ []string) error {
		p.withWrongKey(func() {
			p.queue(0).send(func(c nvme.Command) {
				c.PutIdentify(nvme.IdentifyCommand{CNS: nvme.CNSController})
			}, 0, 4096)
		})
		return nil
	})
	onHost(`has an I/O queue`, func(p *peer, _ []string) error { return p.connectIO() })
	onHost(`asks for an I/O queue and is refused`, func(p *peer, _ []string) error {
		if err := p.connectIO(); err == nil {
			return errUnexpected
		}
		return nil
	})
	onHost(`uses its namespace`, func(p *peer, _ []string) error { return p.verifiedIO() })
	onHost(`reads (\d+) times (\d+) KiB`, func(p *peer, m []string) error { return p.transfer(nvme.IORead, m) })
	onHost(`writes (\d+) times (\d+) KiB`, func(p *peer, m []string) error { return p.transfer(nvme.IOWrite, m) })
	onHost(`has an answer to all(?:, (.+) to some)?`, func(p *peer, m []string) error {
		some := m[2] == ""
		for _, c := range p.pending {
			switch err := c.wait(); {
			case err == nil:
			case m[2] != "" && expect(err, m[2]) == nil:
				some = true
			default:
				return err
			}
		}
		p.pending = nil
		if !some {
			return fmt.Errorf("all succeeded")
		}
		return nil
	})
	onHost(`reads 4 KiB and hears (.+)`, func(p *peer, m []string) error { return expect(p.io(nvme.IORead, 0, 4096).wait(), m[2]) })
	onRDMA(`writes to memory of T's`, func(p *rdmaHost, _ []string) error {
		if p.last == nil {
			return errLeft
		}
		return p.last.trespass()
	})
	onRDMA(`forgets its memory`, func(p *rdmaHost, _ []string) error { return p.forget() })
	onHost(`sets CC\.EN to 0`, func(p *peer, _ []string) error { p.setCC(enabled().WithEN(false)); return nil })
	onHost(`sets CC\.SHN`, func(p *peer, _ []string) error {
		p.setCC(enabled().WithSHN(nvme.SHNNormal))
		return nil
	})
	onHost(`sees CSTS\.(RDY|SHST) within (\S+)`, func(p *peer, m []string) error {
		d, err := dur(m[3])
		if err != nil {
			return err
		}
		for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
			csts, err := p.csts()
			if err != nil {
				return err
			}
			if m[2] == "RDY" && !csts.RDY() || m[2] == "SHST" && csts.SHST() == nvme.SHSTComplete {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("CSTS is %#x", uint32(csts))
			}
		}
	})
	onHost(`comes, reads 4 KiB and hangs up, every (\S+), until it is refused, which takes (\d+) to (\d+) times`, func(p *peer, m []string) error {
		d, err := dur(m[2])
		if err != nil {
			return err
		}
		least, _ := strconv.Atoi(m[3])
		most, _ := strconv.Atoi(m[4])
		for n := range most + 1 {
			if err := p.dial(0); err != nil {
				return err
			}
			if err := p.queue(0).waitDialed(commandTime); err != nil {
				if n < least {
					return fmt.Errorf("the %d. time: %w", n+1, err)
				}
				return nil
			}
			if err := errors.Join(p.connectAdmin(), p.connectIO()); err != nil {
				return err
			}
			p.io(nvme.IORead, 0, 4096)
			time.Sleep(10 * time.Millisecond)
			p.end.hangUp()
			time.Sleep(d)
		}
		return errUnexpected
	})
	onHost(`hangs up`, func(p *peer, _ []string) error { p.end.hangUp(); return nil })
	onRDMA(`vanishes`, func(p *rdmaHost, _ []string) error { p.vanish(); return nil })
	onRDMA(`dials with a queue pair that cannot be used`, func(p *rdmaHost, _ []string) error {
		err := p.peer.dial(0)
		if err == nil {
			p.run(func() { err = p.last.qp.Modify(verbs.Err) }) // before the answer can have come
		}
		return err
	})

	onRDMA(`loses its RTUs`, func(p *rdmaHost, _ []string) error {
		return p.w.setLink(p.peer, func(_ int, b []byte) bool { return isRTU(b) })
	})
	onRDMA(`is not heard`, func(p *rdmaHost, _ []string) error {
		return p.w.setLink(p.peer, func(int, []byte) bool { return true })
	})
	onRDMA(`'s acknowledgments are lost`, func(p *rdmaHost, _ []string) error {
		return p.w.setLink(p.peer, func(_ int, b []byte) bool { return isACK(b) })
	})
	onRDMA(`is heard again`, func(p *rdmaHost, _ []string) error { return p.w.setLink(p.peer, nil) })
}

// expect compares how something ended with what the script says.
func expect(err error, want string) error {
	got := "success"
	if err != nil {
		got = err.Error()
	}
	if !regexp.MustCompile("^(?:" + want + ")$").MatchString(got) {
		return fmt.Errorf("was %q", got)
	}
	return nil
}

// transfer sends commands and does not wait for them.
func (p *peer) transfer(op nvme.IOOpcode, m []string) error {
	n, err1 := strconv.Atoi(m[2])
	kib, err2 := strconv.Atoi(m[3])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for i := range n {
		p.pending = append(p.pending, p.io(op, i, kib<<10))
	}
	return nil
}

// qidOf is that of the queue that a sentence names, or does not.
func qidOf(named string) uint16 {
	if named == "" {
		return 0
	}
	return 1
}
