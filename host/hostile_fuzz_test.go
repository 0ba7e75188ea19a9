package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// A hostile reads from fuzzed bytes what to make of each command's end.
type hostile struct{ script []byte }

func (h *hostile) next(n int) []byte {
	b := make([]byte, n)
	h.script = h.script[copy(b, h.script):]
	return b
}

// mangle changes what a command ended with: nothing, its status, its result, or
// some of its data.
func (h *hostile) mangle(_ uint16, r *transport.HostRequest) {
	if len(h.script) == 0 || r.Err != nil {
		return
	}
	switch h.next(1)[0] % 8 {
	case 1:
		r.Completion.Status = nvme.Status(binary.LittleEndian.Uint16(h.next(2)) & 0x7FFF)
	case 2:
		r.Completion.Result = binary.LittleEndian.Uint64(h.next(8))
	case 3:
		r.Completion.Result ^= 1 << (h.next(1)[0] & 63)
	case 4: // anywhere
		if len(r.Data) > 0 {
			at := int(binary.LittleEndian.Uint16(h.next(2))) % len(r.Data)
			copy(r.Data[at:], h.next(4))
		}
	case 5: // a run of one value, such as a full list of namespaces
		b := h.next(3)
		if len(r.Data) > 0 {
			at := int(binary.LittleEndian.Uint16(b)) % len(r.Data)
			copy(r.Data[at:], bytes.Repeat(b[2:], len(r.Data)-at))
		}
	case 6: // dwords that ascend
		for i := 0; i+4 <= len(r.Data); i += 4 {
			binary.LittleEndian.PutUint32(r.Data[i:], uint32(i/4+1))
		}
	}
}

// Whatever a target answers, the host neither panics nor hangs, ends every call,
// leaves no goroutine, and remembers no more than it allows.
func FuzzHostileTarget(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{})
	f.Add(uint8(0), []byte{0, 1, 0x86, 0x01})
	f.Add(uint8(0), []byte{0, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Add(uint8(0), []byte{0, 0, 0, 0, 0, 0, 4, 0x4D, 0, 1, 2, 3, 4})
	f.Add(uint8(0), []byte{0, 0, 0, 0, 0, 0, 5, 0, 0, 0xFF})
	f.Add(uint8(1), []byte{0, 0, 0, 0, 0, 0, 0, 0, 5, 8, 0, 0xFF})
	f.Add(uint8(2), bytes.Repeat([]byte{0, 0, 6}, 20))
	f.Add(uint8(0), append(make([]byte, 30), bytes.Repeat([]byte{1, 2, 3}, 30)...))
	f.Fuzz(func(t *testing.T, kind uint8, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, true, target.SubsystemConfig{})
			defer w.close()
			h := &hostile{script: script}
			w.dialer.mangle = func(qid uint16, r *transport.HostRequest) { // of two shards
				w.dialer.set(func() { h.mangle(qid, r) })
			}
			cfg := w.config()
			cfg.NrIOQueues, cfg.ReconnectDelay, cfg.CtrlLossTMO = 1, time.Second, 10*time.Second
			cfg.Events.Warning = func(error) {}
			cfg.Events.NamespacesChanged = func() {}
			if kind%3 == 1 {
				cfg.NQN = nvme.DiscoveryNQN
			}
			within := func(d time.Duration, what string, fn func(context.Context) error) error {
				ctx, cancel := context.WithTimeout(context.Background(), d)
				defer cancel()
				start := time.Now()
				err := fn(ctx)
				if took := time.Since(start); took > d+host.DefaultIOTimeout+host.DefaultAdminTimeout {
					t.Errorf("%s took %v: %v", what, took, err)
				}
				return err
			}
			var c *host.Controller
			if within(30*time.Second, "connect", func(ctx context.Context) (err error) { c, err = host.Connect(ctx, cfg); return err }) != nil {
				return
			}
			if kind%3 == 2 { // what is watched happens
				_, _ = w.sub.RefreshNamespace(1)
				time.Sleep(time.Second)
			}
			_ = within(30*time.Second, "discovery log", func(ctx context.Context) error { _, err := c.DiscoveryLog(ctx); return err })
			all := c.Namespaces()
			if len(all) > 1<<17 {
				t.Errorf("%d namespaces", len(all))
			}
			for _, n := range all[:min(len(all), 3)] {
				buf := make([]byte, 2*n.BlockSize())
				for what, fn := range map[string]func(context.Context) error{
					"read":        func(ctx context.Context) error { return n.Read(ctx, 0, buf) },
					"write":       func(ctx context.Context) error { return second(n.WriteAtContext(ctx, buf[:100], 50)) },
					"flush":       n.Flush,
					"deallocate":  func(ctx context.Context) error { return n.Deallocate(ctx, 0, 1) },
					"writezeroes": func(ctx context.Context) error { return n.WriteZeroes(ctx, 1, 1, true) },
				} {
					err := within(5*time.Second, what, fn)
					if errors.Is(err, context.DeadlineExceeded) && n.Size() == 0 {
						t.Errorf("%s of nothing: %v", what, err)
					}
				}
			}
			_ = within(time.Minute, "disconnect", c.Disconnect)
			if c.State() != host.Dead {
				t.Errorf("state %v", c.State())
			}
		})
	})
}
