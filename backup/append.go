package backup

import (
	"errors"
	"io"
)

// Append copies a part of a backup, which is checked, into w: the catalog, with which a backup begins, or a shard. progress (if not
// nil) is told, now and then and at the end, what of the part has been copied. After an error w holds a piece of the part: Return
// takes it back.
func (w *Writer) Append(part io.Reader, progress func(Counts)) error {
	in := NewReader(part)
	var done Counts
	told := uint64(0)
	for {
		record, err := in.Next()
		if errors.Is(err, io.EOF) {
			if progress != nil {
				progress(done)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.copy(record, &done); err != nil {
			return err
		}
		if progress != nil && done.Messages >= told+appendStep {
			told = done.Messages
			progress(done)
		}
	}
}

// appendStep is how many messages lie between two reports.
const appendStep = 256

func (w *Writer) copy(record any, done *Counts) error {
	switch r := record.(type) {
	case *Begin:
		if w.state.begin == nil {
			return w.Begin(r)
		}
	case Catalog:
		return w.Catalog(r)
	case *Shard:
		return w.Shard(r)
	case *Queue:
		done.Queues++
		return w.Queue(r)
	case *Message:
		done.add(Counts{Messages: 1, Places: uint64(len(r.Places)), Octets: r.Size})
		return w.Message(r)
	case Piece:
		return w.Piece(r)
	case *ShardEnd:
		return w.ShardEnd()
	}
	return nil
}
