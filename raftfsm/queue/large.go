package queue

import "math"

// place is where the envelope, or the rest of it, of a message begins: unique among messages.
type place struct {
	index  uint64
	offset uint32
}

// large is a message whose envelope came in several pieces. Its records in all queues share it.
type large struct {
	body  Body
	size  uint64
	users int // records
}

// Bounds of one upload. Beyond them its final Enqueue is refused.
const (
	maxUploadBytes  = 512<<20 + 64<<10
	maxUploadPieces = 8192
)

// upload is a message whose pieces are coming in.
type upload struct {
	pieces  []Ref
	size    uint64
	refused bool // too much, or some of it was lost with the session: the pieces are forgotten
	sum     uint64
}

// chunk adds a piece to an upload.
func (s *State) chunk(ss *session, id uint64, piece Ref) {
	u := ss.uploads[id]
	if u == nil {
		u = &upload{}
		ss.uploads[id] = u
	}
	if u.refused {
		return
	}
	u.size += uint64(piece.Size)
	s.octets += uint64(piece.Size)
	u.pieces = append(u.pieces, piece)
	if u.size > maxUploadBytes || len(u.pieces) > maxUploadPieces {
		s.refuseUpload(ss, id, u)
		return
	}
	s.resum(&u.sum, u.hash(ss, id))
}

func (u *upload) hash(ss *session, id uint64) uint64 {
	h := fold(ss.key, id)
	if u.refused {
		return fold(h, math.MaxUint64)
	}
	last := u.pieces[len(u.pieces)-1]
	return fold(fold(h, u.size), fold(last.Index, uint64(last.Offset)))
}

// refuseUpload forgets what an upload holds; that there was one stays known until its end, so that what comes later is
// not taken for a whole message.
func (s *State) refuseUpload(ss *session, id uint64, u *upload) {
	s.octets -= u.size
	u.pieces, u.size, u.refused = nil, 0, true
	s.resum(&u.sum, u.hash(ss, id))
}

// finishUpload takes the upload from its session and joins it with the rest. It returns nil if it is refused or was
// never begun.
func (s *State) finishUpload(ss *session, id uint64, rest Ref) *large {
	u := ss.uploads[id]
	if u == nil {
		return nil
	}
	delete(ss.uploads, id)
	s.octets -= u.size
	s.resum(&u.sum, 0)
	size := u.size + uint64(rest.Size)
	if u.refused || size > maxUploadBytes {
		return nil
	}
	l := &large{size: size, body: Body{First: u.pieces[0]}}
	more := u.pieces[1:]
	if rest.Size > 0 {
		more = append(more, rest)
	}
	if len(more) > 0 {
		l.body.More = more[:len(more):len(more)]
	}
	return l
}

// body says where the envelope of a message is.
func (s *State) body(r *record) Body {
	if r.flags&recordLarge != 0 {
		return s.large[r.place()].body
	}
	return Body{First: r.ref()}
}

// bodySize is the length of the envelope.
func (s *State) bodySize(r *record) uint64 {
	if r.flags&recordLarge != 0 {
		return s.large[r.place()].size
	}
	return uint64(r.size)
}

// retain is the beginning of a message in one queue.
func (s *State) retain(r *record) {
	s.messages++
	if r.flags&recordLarge == 0 {
		s.octets += uint64(r.size)
		return
	}
	l := s.large[r.place()]
	s.octets += l.size
	l.users++
}

// release is its end.
func (s *State) release(r *record) {
	s.messages--
	if r.flags&recordLarge == 0 {
		s.octets -= uint64(r.size)
		return
	}
	at := r.place()
	l := s.large[at]
	s.octets -= l.size
	if l.users--; l.users == 0 {
		delete(s.large, at)
	}
}

// resum replaces what a part of the state contributes to its digest.
func (s *State) resum(sum *uint64, to uint64) {
	s.sum += to - *sum
	*sum = to
}
