package main

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
)

// cmEvents logs the events of the connection manager, as rdma_cm's users do.
func cmEvents(log *slog.Logger) func(*rdmacm.ID, *rdmacm.Event) {
	return func(id *rdmacm.ID, ev *rdmacm.Event) {
		if !log.Enabled(context.Background(), slog.LevelDebug) {
			return
		}
		args := []any{"event", ev.Type.String(), "number", int(ev.Type), "status", ev.Status, "id", id.Num(), "local", id.LocalAddr(), "remote", id.RemoteAddr()}
		if ev.Conn != nil {
			args = append(args, "conn", ev.Conn.Num(), "conn_remote", ev.Conn.RemoteAddr())
		}
		if ev.Err != nil {
			args = append(args, "err", ev.Err)
		}
		log.Debug("cm event", args...)
	}
}

func targetEvents(log *slog.Logger) target.Events {
	controller := func(i target.ControllerInfo) []any {
		return []any{"cntlid", i.CNTLID, "subsystem", i.SubsystemNQN, "host", i.HostNQN, "remote", i.Remote}
	}
	return target.Events{
		ControllerCreated: func(i target.ControllerInfo) {
			if message := "controller created"; !spared(log, message) {
				log.Info(message, controller(i)...)
			}
		},
		ControllerRemoved: func(i target.ControllerInfo, cause error) {
			if message := "controller removed"; !spared(log, message) {
				log.Info(message, append(controller(i), "cause", cause)...)
			}
		},
		ConnectRefused: func(i target.ControllerInfo, qid uint16, err error) {
			log.Warn("connect refused", append(controller(i), "qid", qid, "err", err)...)
		},
	}
}

func rdmaEvents(log *slog.Logger) rdma.Events {
	return rdma.Events{
		Refused: func(remote netip.AddrPort, cause error) { log.Warn("queue refused", "remote", remote, "cause", cause) },
		Down: func(remote netip.AddrPort, qid uint16, cause error) {
			if log.Enabled(context.Background(), slog.LevelDebug) {
				log.Debug("queue down", "remote", remote, "qid", qid, "cause", cause)
			}
		},
		Listening: func(addr netip.AddrPort, err error) {
			if err != nil {
				log.Warn("listener lost", "addr", addr, "err", err)
				return
			}
			log.Info("listening again", "addr", addr)
		},
	}
}

func hostEvents(log *slog.Logger) host.Events {
	return host.Events{
		Lost:              func(cause error) { log.Warn("connection lost", "cause", cause) },
		ConnectFailed:     func(attempt int, err error) { log.Warn("reconnect failed", "attempt", attempt, "err", err) },
		Reconnected:       func(attempt int) { log.Info("reconnected", "attempt", attempt) },
		Dead:              func(cause error) { log.Error("controller given up", "cause", cause) },
		NamespacesChanged: func() { log.Debug("namespaces changed") },
		Warning:           func(err error) { log.Warn("controller", "err", err) },
		AsyncEvent:        func(e nvme.AsyncEvent) { log.Info("asynchronous event", "event", e) },
	}
}
