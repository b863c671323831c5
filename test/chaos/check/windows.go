// Package check holds what a chaos run observed against what Warren promises. It sees messages as numbers, takes no
// clock and does no I/O, so that recorded histories, good and bad ones, test it.
//
// A message is named by its publisher and a number that the publisher uses once. A publisher never repeats a message:
// one whose answer was lost with the connection is uncertain and may come out once or not at all.
package check

import (
	"sync"
	"time"
)

// Windows are the times during which faults touched nodes, since the start of the run.
type Windows struct {
	mu   sync.Mutex
	list []Window
}

// Window is one fault on one node. To is 0 while it goes on.
type Window struct {
	Fault    string
	Node     int
	From, To time.Duration
	// Severe says that it may cost the node's clients their sessions: its process ends or stands still, or nobody reaches it. Others, such
	// as a slow disk or a wrong clock, excuse no redelivery.
	Severe bool
}

// Open notes that a fault begins to touch a node.
func (w *Windows) Open(fault string, node int, at time.Duration, severe bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, Window{Fault: fault, Node: node, From: at, Severe: severe})
}

// Close notes that the node is well again: healed, and serving.
func (w *Windows) Close(fault string, node int, at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.list {
		if v := &w.list[i]; v.Fault == fault && v.Node == node && v.To == 0 {
			v.To = at
		}
	}
}

// All is a copy of what was noted.
func (w *Windows) All() []Window {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Window(nil), w.list...)
}

// touched says whether a fault touched the node between two times.
func touched(list []Window, node int, from, to time.Duration) bool {
	for _, v := range list {
		if v.Node == node && v.From <= to && (v.To == 0 || v.To >= from) {
			return true
		}
	}
	return false
}

// Severed says whether a fault that may cost sessions touched the node between two times.
func Severed(list []Window, node int, from, to time.Duration) bool {
	for _, v := range list {
		if v.Severe && touched([]Window{v}, node, from, to) {
			return true
		}
	}
	return false
}

// firstSevered is when the first fault that may cost sessions began to touch the node after a time.
func firstSevered(list []Window, node int, after time.Duration) (at time.Duration, ok bool) {
	for _, v := range list {
		if v.Severe && v.Node == node && v.From >= after && (!ok || v.From < at) {
			at, ok = v.From, true
		}
	}
	return at, ok
}

// quiet says whether no node was under a fault for at least length somewhere between two times.
func quiet(list []Window, from, to, length time.Duration) bool {
	for from+length <= to {
		moved := false
		for _, v := range list {
			if v.From <= from+length && (v.To == 0 || v.To > from) {
				if v.To == 0 {
					return false
				}
				from, moved = v.To, true
			}
		}
		if !moved {
			return true
		}
	}
	return false
}

// Troubled says whether faults between two times explain that a client of a node was refused: the node was touched, or so many others
// that there may have been no majority.
func Troubled(list []Window, node, nodes int, from, to time.Duration) bool {
	ill := 0
	for i := range nodes {
		if touched(list, i, from, to) {
			if i == node {
				return true
			}
			ill++
		}
	}
	return 2*ill >= nodes
}
