// Package admission is the budget of a target: how many queues and how many
// bytes may exist at once, for all of it, behind each of its ports, and for each
// host. A connection is charged before anything is allocated for it and gives
// its charge back last of all, when everything it held is free: what is live,
// connecting, reserved and being released never passes the budget. The
// bytes of what storage has not answered when its queue is gone stay charged until
// it has ([Grant.Orphan]).
//
// A new controller brings room for one I/O queue with its admin queue, so that
// who gets in gets all the way in, and reserves the rest when it is asked how
// many queues it may have. Who finds no room may wait; room that comes back
// goes to those who wait, the longest waiting host first and each host in turn.
package admission
