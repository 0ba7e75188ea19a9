package target

import "github.com/fabrid/fabrid/nvme"

// A command is all the target knows about an opcode. The tables below are the
// list of what is supported; nothing else dispatches on an opcode.
type command struct {
	name string
	dir  nvme.Direction

	// size checks the command and returns how many bytes of data it moves. Nil:
	// nothing to check, no data.
	size func(*request) (uint64, error)
	// more: the SGL may describe more than size says, up to most bytes.
	more bool
	most uint64

	// run carries the command out: it has ended when run returns. A command that
	// may end later has start instead, which sees to its completion.
	run   func(*request) error
	start func(*request)

	// step carries out the next step of a command that has several; done is
	// called when the op of one has succeeded. Without done the command ends with
	// its op.
	step, done func(*request)

	// always: also when the controller is not ready.
	always bool

	// effects is what the Commands Supported and Effects log says.
	effects nvme.CommandEffects
}

func (c *command) supported() bool { return c.run != nil || c.start != nil }

// fixed is the size of data that is always n bytes.
func fixed(n uint64) func(*request) (uint64, error) {
	return func(*request) (uint64, error) { return n, nil }
}

const (
	toHost   = nvme.ControllerToHost
	fromHost = nvme.HostToController
	noData   = nvme.NoData

	csupp   = nvme.EffectCSUPP
	changes = nvme.EffectCSUPP | nvme.EffectLBCC
)

// adminCommands is what the admin queue of an I/O controller takes.
var adminCommands = [256]command{
	nvme.AdminGetLogPage:        {name: "Get Log Page", dir: toHost, size: (*request).logSize, run: (*request).getLogPage, effects: csupp},
	nvme.AdminIdentify:          {name: "Identify", dir: toHost, size: (*request).identifySize, run: (*request).identify, effects: csupp},
	nvme.AdminAbort:             {name: "Abort", dir: noData, start: (*request).abort, effects: csupp},
	nvme.AdminSetFeatures:       {name: "Set Features", dir: fromHost, size: (*request).setFeaturesSize, run: (*request).setFeatures, effects: csupp},
	nvme.AdminGetFeatures:       {name: "Get Features", dir: toHost, size: (*request).getFeaturesSize, run: (*request).getFeatures, effects: csupp},
	nvme.AdminAsyncEventRequest: {name: "Asynchronous Event Request", dir: noData, start: (*request).asyncEventRequest, effects: csupp},
	nvme.AdminKeepAlive:         {name: "Keep Alive", dir: noData, run: (*request).keepAliveCommand, effects: csupp},
}

// discoveryCommands is what the admin queue of a discovery controller takes.
var discoveryCommands = [256]command{
	nvme.AdminGetLogPage:        adminCommands[nvme.AdminGetLogPage],
	nvme.AdminIdentify:          adminCommands[nvme.AdminIdentify],
	nvme.AdminAbort:             adminCommands[nvme.AdminAbort],
	nvme.AdminSetFeatures:       adminCommands[nvme.AdminSetFeatures],
	nvme.AdminGetFeatures:       adminCommands[nvme.AdminGetFeatures],
	nvme.AdminAsyncEventRequest: adminCommands[nvme.AdminAsyncEventRequest],
	nvme.AdminKeepAlive:         adminCommands[nvme.AdminKeepAlive],
}

// ioCommands is what an I/O queue takes.
var ioCommands = [256]command{
	nvme.IOFlush: {name: "Flush", dir: noData, size: (*request).flushSize,
		start: (*request).flush, step: (*request).nextFlush, done: (*request).flushDone, effects: csupp},
	nvme.IOWrite:              {name: "Write", dir: fromHost, size: (*request).writeSize, start: (*request).write, effects: changes},
	nvme.IORead:               {name: "Read", dir: toHost, size: (*request).readSize, start: (*request).read, effects: csupp},
	nvme.IOWriteUncorrectable: {name: "Write Uncorrectable", dir: noData, size: (*request).writeZeroesSize, run: (*request).writeUncorrectable, effects: changes},
	nvme.IOCompare:            {name: "Compare", dir: fromHost, size: (*request).readSize, start: (*request).compare, effects: csupp},
	nvme.IOWriteZeroes:        {name: "Write Zeroes", dir: noData, size: (*request).writeZeroesSize, start: (*request).writeZeroes, effects: changes},
	nvme.IODatasetManagement: {name: "Dataset Management", dir: fromHost, size: (*request).dsmSize, more: true, most: dsmMost,
		start: (*request).dsm, step: (*request).nextRange, done: (*request).rangeDone, effects: changes},
	nvme.IOVerify: {name: "Verify", dir: noData, size: (*request).verifySize,
		start: (*request).verify, step: (*request).nextVerify, done: (*request).verifyDone, effects: csupp},
	nvme.IOCopy: {name: "Copy", dir: fromHost, size: (*request).copySize, more: true, most: copyMost,
		start: (*request).copyBlocks, step: (*request).nextCopy, done: (*request).copyDone, effects: changes},
}

// fabricsCommands is what an admin queue takes once it is connected, by
// FCTYPE. Of these an I/O queue takes Connect alone, to refuse it.
var fabricsCommands = [256]command{
	nvme.FabricsPropertySet: {name: "Property Set", dir: noData, size: (*request).propertySize, run: (*request).propertySet, always: true},
	nvme.FabricsPropertyGet: {name: "Property Get", dir: noData, size: (*request).propertySize, run: (*request).propertyGet, always: true},
	nvme.FabricsConnect:     {name: "Connect", dir: fromHost, size: (*request).connectedAlready, run: (*request).connect, always: true},
}

// connectCommand is what a queue takes that is not connected.
var connectCommand = command{
	name: "Connect", dir: fromHost, size: fixed(nvme.ConnectDataSize), run: (*request).connect, always: true,
}

// find returns the row for a command, or nil if the queue does not take it.
func (q *queue) find(c nvme.Command) *command {
	var cmd *command
	switch {
	case q.ctrl == nil:
		if !c.IsFabrics() || c.FCTYPE() != nvme.FabricsConnect {
			return nil
		}
		return q.port.target.connect
	case c.IsFabrics():
		cmd = &q.port.target.fabrics[c.FCTYPE()]
		if q.qid != 0 && c.FCTYPE() != nvme.FabricsConnect {
			return nil
		}
	default:
		cmd = &q.commands[c.Opcode()]
	}
	if !cmd.supported() {
		return nil
	}
	return cmd
}
