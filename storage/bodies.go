package storage

import "fmt"

// Bodies reads what is alive at one moment, whatever is given up meanwhile: until Close the files with it stay on disk. It is
// for one goroutine, and quick when entries are asked for in order.
type Bodies struct {
	held  *held
	index uint64 // of piece
	piece *piece // the entry that was read last; nil: none
}

// OpenBodies keeps everything that a state refers to, which take pins and whose index it returns. It must be the group's present
// state: a checkpoint gives up what its state does not need, so none is made until the files are held, and one that is being made
// is waited for. Until Read or Close, the log stays from that index on: a snapshot may be made of it.
func (g *Group) OpenBodies(take func() (index uint64)) (*Bodies, error) {
	if err := g.begin(); err != nil {
		return nil, err
	}
	defer g.working.Unlock()
	if err := g.Damaged(); err != nil {
		return nil, err
	}
	return &Bodies{held: g.hold(take())}, nil
}

// Read returns octets [offset, offset+size) of the data of an entry, which are one of the state's references. They are read-only
// and stay as they are. Who reads makes no snapshot of it, so that nobody follows.
func (b *Bodies) Read(index uint64, offset, size uint32) ([]byte, error) {
	b.held.unfollow(false)
	if size == 0 {
		return nil, nil
	}
	if b.piece == nil || b.index != index {
		p, err := b.held.read(index)
		if err != nil {
			return nil, fmt.Errorf("entry %d of group %d: %w", index, b.held.g.id, err)
		}
		b.index, b.piece = index, p
	}
	body, ok := b.piece.body(offset, size)
	if !ok {
		return nil, fmt.Errorf("%d octets at %d of entry %d of group %d: %w", size, offset, index, b.held.g.id, ErrNotFound)
	}
	return body, nil
}

// Close gives the files back.
func (b *Bodies) Close() error {
	b.piece = nil
	return b.held.release()
}
