package main

import (
	"reflect"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// collectors are of what package metrics does not know: the fabric, and the
// machine's memory.
func (s *server) collectors(f serveFlags) []prometheus.Collector {
	budget := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fabrid_memory_budget_bytes", Help: "Memory that the target may use, without namespaces, 0 if there is no bound: --memory-budget.",
	})
	budget.Set(float64(f.memoryBudget))
	all := []prometheus.Collector{budget, newListenerCollector(s.listens)}
	for _, r := range s.roce {
		all = append(all, newRoCECollector(r))
	}
	return all
}

// roceHelp says what the counters of a device count, by their names in
// [roce.Stats].
var roceHelp = map[string]string{
	"PacketsSent":     "Packets sent.",
	"PacketsReceived": "Packets received.",
	"SendCalls":       "System calls that sent packets.",
	"ReceiveCalls":    "System calls that received packets.",
	"Trains":          "Sends of more than one packet at once.",
	"DropsMalformed":  "Packets dropped: malformed.",
	"DropsICRC":       "Packets dropped: wrong ICRC.",
	"DropsIdent":      "Packets dropped: an ICRC that is right for an IPv4 Identification that is not near the last.",
	"IdentsSolved":    "Packets whose IPv4 Identification was not the expected one.",
	"IdentJumps":      "Packets accepted though their IPv4 Identification was not near the last.",
	"DropsNoQP":       "Packets dropped: no such queue pair.",
	"DropsSource":     "Packets dropped: from where the queue pair is not connected to.",
	"DropsSend":       "Packets that the kernel refused to send.",
	"DropsReceive":    "Packets, or trains of them, that the receive buffer had no room for.",
	"NAKsSent":        "NAKs sent.",
	"NAKsReceived":    "NAKs received.",
	"RNRsSent":        "RNR NAKs sent: no receive was posted.",
	"RNRsReceived":    "RNR NAKs received.",
	"Duplicates":      "Packets that came again.",
	"Retransmits":     "Packets sent again.",
	"Timeouts":        "Expiries of the retransmission timer.",
	"Probes":          "Packets sent again before that, to see what was lost.",
	"SendBlocked":     "Times that the kernel's send buffer was full.",
	"ECNMarked":       "Packets received that have seen congestion.",
	"CNPsSent":        "Congestion notifications sent.",
	"CNPsReceived":    "Congestion notifications received.",
	"MADsSent":        "Messages of the connection manager sent.",
	"MADsReceived":    "Messages of the connection manager received.",
	"MADsStray":       "Messages of the connection manager about no connection of their sender's.",
	"ICMPErrors":      "ICMP errors looked at while connections were asked for.",
}

// A roceCollector shows the counters of a device.
type roceCollector struct {
	device *roce.Device
	qps    *prometheus.Desc
	stats  []*prometheus.Desc // by field of roce.Stats
}

func newRoCECollector(r *fabric.RoCE) *roceCollector {
	labels := prometheus.Labels{"device": r.Device.Addr().String()}
	c := &roceCollector{device: r.Device, qps: prometheus.NewDesc("fabrid_roce_queue_pairs", "Queue pairs.", nil, labels)}
	for f := range reflect.TypeFor[roce.Stats]().Fields() {
		c.stats = append(c.stats, prometheus.NewDesc("fabrid_roce_"+snake(f.Name)+"_total", roceHelp[f.Name], nil, labels))
	}
	return c
}

func (c *roceCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.qps
	for _, d := range c.stats {
		ch <- d
	}
}

// Collect implements [prometheus.Collector]. It waits for the shard.
func (c *roceCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(c.qps, prometheus.GaugeValue, float64(c.device.QPs()))
	v := reflect.ValueOf(c.device.Stats())
	for i, d := range c.stats {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v.Field(i).Uint()))
	}
}

// A listenerCollector shows what listeners hold.
type listenerCollector struct {
	listens                        []*rdma.Listener
	buffers, pool, regions, shared *prometheus.Desc
}

func newListenerCollector(listens []*rdma.Listener) *listenerCollector {
	desc := func(name string, help ...string) *prometheus.Desc {
		return prometheus.NewDesc("fabrid_rdma_"+name, strings.Join(help, " "), []string{"listener"}, nil)
	}
	return &listenerCollector{
		listens: listens,
		buffers: desc("data_buffers", "Data buffers in use."),
		pool:    desc("pool_bytes", "Memory of the data buffers, in use or not."),
		regions: desc("memory_regions", "Memory regions registered."),
		shared:  desc("shared_receives_used", "Receives of the shared receive queue that hold a command."),
	}
}

func (c *listenerCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.buffers, c.pool, c.regions, c.shared} {
		ch <- d
	}
}

func (c *listenerCollector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.listens {
		s, at := l.Stats(), l.Addr().String()
		for _, g := range []struct {
			desc *prometheus.Desc
			v    float64
		}{{c.buffers, float64(s.Buffers)}, {c.pool, float64(s.PoolBytes)}, {c.regions, float64(s.MRs)}, {c.shared, float64(s.SharedInUse)}} {
			ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.v, at)
		}
	}
}
