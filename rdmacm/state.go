package rdmacm

import "fmt"

// A State is the state of an ID.
type State uint8

// States. A listener is idle, listening, destroying. An active end goes on
// from idle to resolved, a passive one begins as requested.
const (
	StateIdle          State = iota
	StateListening           // connect requests come
	StateResolved            // the local address and the vector are known
	StateConnecting          // Connect was called
	StateRequested           // the peer waits for Accept or Reject
	StateAccepting           // Accept was called
	StateConnected           // Established was handled
	StateDisconnecting       // Disconnect was called
	StateDisconnected        // there is no connection, and will be none
	StateRefused             // Reject was called
	StateExpired             // Requested, and nobody answered in time
	StateRemoved             // the device is gone
	StateDestroying          // Destroy was called: nothing is handled any more
	numStates
)

var stateNames = [numStates]string{
	"idle", "listening", "resolved", "connecting", "requested", "accepting", "connected",
	"disconnecting", "disconnected", "refused", "expired", "removed", "destroying",
}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// A move is what may change a state: a call, or an event that is handled.
type move uint8

const (
	callListen move = iota
	listenFailed
	callResolve
	callConnect
	callAccept
	callReject
	expire
	callDisconnect
	callDestroy
	numCalls

	numMoves = numCalls + move(TimewaitExit) + 1
)

var callNames = [numCalls]string{
	"listen", "listen failed", "resolve", "connect", "accept", "reject", "expire", "disconnect", "destroy",
}

// An event that is handled is a move.
const (
	onConnectRequest = numCalls + move(ConnectRequest)
	onConnectError   = numCalls + move(ConnectError)
	onUnreachable    = numCalls + move(Unreachable)
	onRejected       = numCalls + move(Rejected)
	onEstablished    = numCalls + move(Established)
	onDisconnected   = numCalls + move(Disconnected)
	onDeviceRemoval  = numCalls + move(DeviceRemoval)
	onAddrChange     = numCalls + move(AddrChange)
	onTimewaitExit   = numCalls + move(TimewaitExit)
)

func on(t EventType) move {
	if t > TimewaitExit {
		return numMoves
	}
	return numCalls + move(t)
}

func (m move) String() string {
	if m < numCalls {
		return callNames[m]
	}
	return EventType(m - numCalls).String()
}

// next[from][m] is the state that m leads to; StateIdle, which nothing but a failed
// Listen leads to, says that m is not for this state: such a call is a
// [*StateError], such an event came too late and is dropped. It is the whole
// rule, and the test draws it.
//
// Events move the state when they are handled, not when they arrive, so that
// the state never runs ahead of what the consumer has been told.
var next = [numStates][numMoves]State{
	StateIdle: {
		callListen:  StateListening,
		callResolve: StateResolved,
		callDestroy: StateDestroying,
	},
	StateListening: {
		onConnectRequest: StateListening,
		onAddrChange:     StateListening,
		onDeviceRemoval:  StateRemoved,
		callDestroy:      StateDestroying,
	},
	StateResolved: {
		callConnect:     StateConnecting,
		callDisconnect:  StateDisconnecting,
		onAddrChange:    StateResolved,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateConnecting: {
		onEstablished:   StateConnected,
		onRejected:      StateDisconnected,
		onUnreachable:   StateDisconnected,
		onConnectError:  StateDisconnected,
		callDisconnect:  StateDisconnecting,
		onAddrChange:    StateConnecting,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateRequested: {
		callAccept:      StateAccepting,
		callReject:      StateRefused,
		expire:          StateExpired,
		onRejected:      StateDisconnected, // the peer gave up
		onUnreachable:   StateDisconnected,
		onConnectError:  StateDisconnected,
		callDisconnect:  StateDisconnecting,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateAccepting: {
		onEstablished:   StateConnected,
		onRejected:      StateDisconnected,
		onUnreachable:   StateDisconnected,
		onConnectError:  StateDisconnected,
		callDisconnect:  StateDisconnecting,
		onAddrChange:    StateAccepting,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateConnected: {
		callDisconnect:  StateDisconnecting,
		onDisconnected:  StateDisconnected,
		onAddrChange:    StateConnected,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	// Leaving again is nothing new, in this and the states below.
	StateDisconnecting: {
		callDisconnect:  StateDisconnecting,
		onDisconnected:  StateDisconnected,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateDisconnected: {
		callDisconnect:  StateDisconnected,
		onTimewaitExit:  StateDisconnected,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateRefused: {
		callDisconnect:  StateRefused,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateExpired: {
		callDisconnect:  StateExpired,
		onConnectError:  StateDisconnected,
		onDeviceRemoval: StateRemoved,
		callDestroy:     StateDestroying,
	},
	StateRemoved: {
		callDisconnect: StateRemoved,
		callDestroy:    StateDestroying,
	},
}

// after returns the state that m leads to from s, and whether s allows m.
func (s State) after(m move) (State, bool) {
	if m >= numMoves {
		return s, false
	}
	to := next[s][m]
	return to, to != StateIdle || m == listenFailed && s == StateListening
}

// A StateError is a call that the state of its ID does not allow. It had no
// effect.
type StateError struct {
	ID    uint64
	Op    string
	State State
}

func (e *StateError) Error() string {
	return fmt.Sprintf("rdmacm: ID %d: %s: not allowed when %v", e.ID, e.Op, e.State)
}
