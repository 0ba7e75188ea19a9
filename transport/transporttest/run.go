package transporttest

import (
	"testing"
)

// Run runs every check against the fabric that mk makes.
func Run(t *testing.T, mk Maker) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, mk, c.smallPool)
			c.run(b)
			if !t.Failed() { // else what is left may never go
				b.close()
			}
		})
	}
}

var checks = []struct {
	name      string
	smallPool bool
	run       func(*bench)
}{
	// commands.go
	{"CapsulesInOrder", false, capsulesInOrder},
	{"CommandsRightAfterDial", false, commandsRightAfterDial},
	{"CompletionFields", false, completionFields},
	{"QueueFull", false, queueFull},
	{"SubmitFromDone", false, submitFromDone},
	{"CompletedLateAndOutOfOrder", false, completedLate},
	{"ManyQueues", false, manyQueues},
	{"NoAllocations", false, noAllocations},
	// data.go
	{"DataToController", false, dataToController},
	{"DataToHost", false, dataToHost},
	{"AdminQueueData", false, adminQueueData},
	{"DataOfTheCore", false, dataOfTheCore},
	{"StatusWithoutData", false, statusWithoutData},
	{"WriteWithoutPull", false, writeWithoutPull},
	{"TooMuchData", false, tooMuchData},
	{"BuffersAreWaitedFor", true, buffersAreWaitedFor},
	{"CancelWhileBuffersAreWaitedFor", true, cancelWhileWaiting},
	// leave.go
	{"DisconnectByHost", false, disconnectByHost},
	{"DisconnectByTarget", false, disconnectByTarget},
	{"CompletedBeforeDisconnectIsSent", false, completedBeforeDisconnect},
	{"DisconnectByBoth", false, disconnectByBoth},
	{"DisconnectWhileBuffersAreWaitedFor", true, disconnectWhileWaiting},
	{"DisconnectIdle", false, disconnectIdle},
	{"DisconnectTraffic", false, disconnectTraffic},
	{"OrphanedRequests", false, orphanedRequests},
	{"ReleaseAndConnectAgain", false, connectAgain},
	{"OpenRefused", false, openRefused},
	{"NobodyListens", false, nobodyListens},
	{"DialCancelled", false, dialCancelled},
}
