package pipe

import (
	"math"

	"github.com/warrenmq/warren/raftfsm/queue"
)

func appliedBy(s *queue.State) uint64 {
	index, _ := s.Applied()
	return index
}

// liveSessions lists the sessions of a state that are not over.
func liveSessions(s *queue.State) []queue.SessionID {
	var live []queue.SessionID
	for id, state := range s.Sessions() {
		if state != queue.SessionOver {
			live = append(live, id)
		}
	}
	return live
}

// liveRefs lists where the pieces of all live messages stand.
func liveRefs(s *queue.State) []queue.Ref {
	var refs []queue.Ref
	s.Snapshot().LiveRefs(0, math.MaxUint64, func(index uint64, offset, size uint32) bool {
		refs = append(refs, queue.Ref{Index: index, Offset: offset, Size: size})
		return true
	})
	return refs
}

// hash proposes the state's hash every so many entries, for the replicas to compare. The lock is held.
func (h *Host) hash(entries int) {
	h.sinceHash += uint64(entries)
	if h.sinceHash < h.o.HashEvery {
		return
	}
	h.sinceHash = 0
	if h.leading && h.local == nil {
		index, hash := appliedBy(h.state), h.state.Hash()
		h.command(func(b *queue.Batch) { b.Hash(index, hash) })
	}
}
