package load

import (
	"fmt"
	"slices"
	"strings"
)

// A StormStage is how far a host of a [Storm] gets before it leaves.
type StormStage uint8

// Stages, in the order in which a host comes to them. Zero is StageLive: the
// host connects all of its queues, and leaves then.
const (
	StageLive           StormStage = iota
	StageREQ                       // it has sent the REQ of the admin queue
	StageREP                       // it has the REP, and sends no RTU
	StageRTU                       // it has sent the RTU, and sends no Connect
	StageConnect                   // it has the answer to the Connect of the admin queue
	StageSetFeatures               // it knows how many I/O queues it has
	StageBetweenQueues             // half of its I/O queues are established, none has sent Connect
	StageRandom                    // any of those above, by chance, each time another
	numStages, numStops = iota, int(StageRandom)
)

var stageNames = [numStages]string{
	"live", "req", "rep", "rtu", "connect", "set-features", "between-queues", "random",
}

func (s StormStage) String() string {
	if int(s) < numStages {
		return stageNames[s]
	}
	return fmt.Sprintf("StormStage(%d)", uint8(s))
}

// ParseStormStage returns the stage of a name.
func ParseStormStage(name string) (StormStage, error) {
	for s, n := range stageNames {
		if n == name {
			return StormStage(s), nil
		}
	}
	return 0, fmt.Errorf("load: storm stage %q: want one of %s", name, strings.Join(stageNames[:], ", "))
}

// StormStages returns the names of all stages.
func StormStages() []string { return slices.Clone(stageNames[:]) }

// A stormStep is what a host does just now.
type stormStep uint8

const (
	stepIdle stormStep = iota
	stepCM
	stepConnect
	stepCAP
	stepCC
	stepCSTS
	stepSetFeatures
	stepIOCM
	stepIOConnect
	stepLive
	stepLeave
	numSteps
)

var stepNames = [numSteps]string{
	"idle", "connection of the admin queue", "Connect of the admin queue", "Property Get CAP", "Property Set CC", "Property Get CSTS",
	"Set Features, Number of Queues", "connection of an I/O queue", "Connect of an I/O queue", "live", "disconnect",
}

func (s stormStep) String() string { return stepNames[s] }
