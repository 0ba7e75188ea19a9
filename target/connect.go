package target

import (
	"fmt"

	"github.com/fabrid/fabrid/nvme"
)

// connectedAlready refuses a Connect on a queue that is connected.
func (rq *request) connectedAlready() (uint64, error) {
	return 0, nvme.ConnectControllerBusy.WithDNR()
}

// connect is Connect, on a queue that is not connected [Base 6.3].
func (rq *request) connect() error {
	q := rq.q
	if q.ctrl != nil { // a second one, sent before the first was answered
		return nvme.ConnectControllerBusy.WithDNR()
	}
	cmd := rq.r.Command.Connect()
	var b [nvme.ConnectDataSize]byte
	rq.dataAt(b[:], 0)
	var data nvme.ConnectData
	nameErr := data.Parse(b[:])

	connect := q.connectAdmin
	if cmd.QID != 0 {
		connect = q.connectIO
	}
	c, err := connect(cmd, data, nameErr)
	if err != nil {
		if refused := q.config().Events.ConnectRefused; refused != nil {
			refused(ControllerInfo{
				SubsystemNQN: data.SUBNQN, CNTLID: data.CNTLID, HostNQN: data.HOSTNQN, HostID: data.HostID,
				PortID: q.port.cfg.ID, Local: q.param.Local, Remote: q.param.Remote,
			}, cmd.QID, err)
		}
		return err
	}
	q.connected(cmd)
	rq.result = uint64(nvme.MakeConnectResult(c.cntlid))
	if cmd.QID == 0 {
		kato := cmd.KATO
		if kato == 0 {
			kato = c.defaultKATO()
		}
		c.setKATO(kato)
		if created := q.config().Events.ControllerCreated; created != nil {
			created(c.info())
		}
	}
	return nil
}

// checkConnect is what a Connect of either kind of queue must fulfil whatever
// its controller.
func (q *queue) checkConnect(cmd nvme.ConnectCommand) error {
	switch {
	case cmd.RecFmt != 0:
		return &nvme.FieldError{Status: nvme.ConnectIncompatibleFormat.WithDNR(), Field: "RECFMT", Offset: nvme.OffRecFmt}
	case !q.param.AnyQID && cmd.QID != q.param.QID:
		// The fabric has charged and sized the queue as another one.
		return nvme.ConnectCommandError("QID", nvme.OffQID)
	}
	return nil
}

// checkSize checks SQSIZE against what the queue has room for.
func (q *queue) checkSize(cmd nvme.ConnectCommand) error {
	if cmd.SQSize == 0 || int(cmd.SQSize) >= q.param.Depth {
		return nvme.ConnectCommandError("SQSIZE", nvme.OffSQSize)
	}
	return nil
}

// connectAdmin makes a controller: the model is dynamic, a host gets a new one
// with each Connect.
func (q *queue) connectAdmin(cmd nvme.ConnectCommand, data nvme.ConnectData, nameErr error) (*controller, error) {
	if err := q.checkConnect(cmd); err != nil {
		return nil, err
	}
	if data.CNTLID != nvme.CNTLIDDynamic {
		return nil, nvme.ConnectDataError("CNTLID", nvme.OffDataCNTLID)
	}
	if nameErr != nil {
		return nil, nameErr
	}
	t := q.port.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || q.port.removed.Load() {
		return nil, nvme.ConnectControllerBusy // without DNR: the host may find it elsewhere, or later
	}
	s, err := q.port.subsystemLocked(data)
	if err != nil {
		return nil, err
	}
	if err := q.checkSize(cmd); err != nil {
		return nil, err
	}
	c := s.newControllerLocked(q)
	if c == nil {
		return nil, nvme.ConnectControllerBusy.WithDNR()
	}
	c.hostNQN, c.hostID = data.HOSTNQN, data.HostID
	if err := c.attach(q, 0); err != nil {
		return nil, fmt.Errorf("target: new controller %d: %w", c.cntlid, err)
	}
	q.isAdmin.Store(true)
	return c, nil
}

// subsystemLocked returns the subsystem that a host names, if the port has it
// and the host may use it.
func (p *Port) subsystemLocked(data nvme.ConnectData) (*Subsystem, error) {
	s := p.subsystems[data.SUBNQN]
	if data.SUBNQN == nvme.DiscoveryNQN {
		s = p.target.discovery
	}
	if s == nil {
		return nil, nvme.ConnectDataError("SUBNQN", nvme.OffDataSUBNQN)
	}
	if !s.allowsLocked(data.HOSTNQN) {
		return nil, &nvme.FieldError{
			Status: nvme.ConnectInvalidHost.WithDNR(), Field: "HOSTNQN", Offset: nvme.OffDataHOSTNQN, InData: true,
		}
	}
	return s, nil
}

// connectIO adds an I/O queue to the controller that the host names.
func (q *queue) connectIO(cmd nvme.ConnectCommand, data nvme.ConnectData, nameErr error) (*controller, error) {
	if err := q.checkConnect(cmd); err != nil {
		return nil, err
	}
	if nameErr != nil {
		return nil, nameErr
	}
	t := q.port.target
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := q.port.subsystemLocked(data)
	if err != nil {
		return nil, err
	}
	c := s.controllers[data.CNTLID]
	switch {
	case c == nil || c.hostNQN != data.HOSTNQN || c.hostID != data.HostID || c.port != q.port:
		return nil, nvme.ConnectDataError("CNTLID", nvme.OffDataCNTLID)
	case int(cmd.QID) > c.grantedQueues() || c.isDiscovery():
		return nil, nvme.ConnectCommandError("QID", nvme.OffQID)
	}
	if err := q.checkSize(cmd); err != nil {
		return nil, err
	}
	if cmd.SQSize > c.capValue.MQES() {
		return nil, nvme.ConnectCommandError("SQSIZE", nvme.OffSQSize)
	}
	if err := c.attach(q, cmd.QID); err != nil {
		return nil, err
	}
	return c, nil
}
