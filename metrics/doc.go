// Package metrics shows what a target is doing to who operates it: as Prometheus
// reads it, and as text. What is shown is read when it is asked for, in about
// the same time however many queues there are; nothing is counted here. Names
// and labels are listed in docs/METRICS.md, and stay.
package metrics
