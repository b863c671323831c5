package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// chunk is the octets of a snapshot in one frame.
	chunk = 256 << 10
	// stallTimeout is how long a snapshot may stand still, and how long the other node may be silent while it makes it its own.
	stallTimeout = 2 * time.Minute
	// workingPause is what passes between two words of the other node that it is still at that.
	workingPause = 5 * time.Second
	// installTimeout bounds what it may take for that. Who does not wait for the end sends all of it again, for as long as it takes longer.
	installTimeout = time.Hour
	// snapshotPatience bounds the wait for a seat that is away: the snapshot that waits for it keeps log files.
	snapshotPatience = time.Minute
)

// InstallSnapshot implements raft.Transport, over a stream of its own. A seat that is away is waited for, see AppendEntries.
func (g *Group) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, q *raft.InstallSnapshotRequest, p *raft.InstallSnapshotResponse, data io.Reader) error {
	g.mu.Lock()
	waiting, cancel := context.WithTimeout(g.leads, snapshotPatience)
	g.mu.Unlock()
	defer cancel()
	if !g.await(waiting, to) {
		return fmt.Errorf("group %d: snapshot to %s: %w", g.group, to, errAbsent)
	}
	ctx, cancel := context.WithTimeout(g.life, openTimeout)
	s, err := g.t.o.Open(ctx, NodeOf(string(to)), true)
	cancel()
	if err != nil {
		return fmt.Errorf("group %d: snapshot to %s: %w", g.group, to, err)
	}
	defer s.Close()
	defer context.AfterFunc(g.life, s.Close)() // the end of the group waits for this
	watchdog := time.AfterFunc(stallTimeout, s.Close)
	defer watchdog.Stop()
	announcement := appendSnapshot(g.head(kindSnapshot, to, q.RPCHeader, 64+len(q.Configuration)), q)
	announcement[statusAt] = statusWorking
	if err := sendAll(s, announcement, data, q.Size, watchdog); err != nil {
		return fmt.Errorf("group %d: snapshot to %s: %w", g.group, to, err)
	}
	frame, err := awaitInstalled(s, watchdog)
	if err != nil {
		return fmt.Errorf("group %d: snapshot to %s: %w", g.group, to, err)
	}
	return readAnswer(frame, p)
}

// awaitInstalled receives the answer to a snapshot, for as long as the other node says that it is at work.
func awaitInstalled(s Stream, watchdog *time.Timer) ([]byte, error) {
	deadline := time.Now().Add(installTimeout)
	for {
		frame, err := s.Recv()
		if err != nil || len(frame) <= statusAt || frame[statusAt] != statusWorking {
			return frame, err
		}
		watchdog.Reset(min(stallTimeout, time.Until(deadline)))
	}
}

// sendAll sends the announcement and exactly size octets. A stream that takes no more is no error here: the other node may
// have refused half-way, and its answer says why.
func sendAll(s Stream, announcement []byte, data io.Reader, size int64, watchdog *time.Timer) error {
	if err := s.Send(announcement); err != nil {
		return nil
	}
	for size > 0 {
		b := make([]byte, min(chunk, size)) // the stream keeps it
		if _, err := io.ReadFull(data, b); err != nil {
			return fmt.Errorf("read the snapshot: %w", err)
		}
		if err := s.Send(b); err != nil {
			return nil
		}
		size -= int64(len(b))
		watchdog.Reset(stallTimeout)
	}
	return nil
}

// ServeBulk takes a snapshot from another node, over a stream that it has opened.
func (t *Transport) ServeBulk(ctx context.Context, s Stream) {
	defer s.Close()
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	frame, err := s.Recv()
	if err != nil {
		return
	}
	r := reader{b: frame}
	h, err := cutHeader(&r)
	if err != nil || h.kind != kindSnapshot {
		return
	}
	a := cutAddress(&r)
	q, err := cutSnapshot(&r, &a)
	if err != nil {
		t.o.Logger.Warn("malformed snapshot request from another node", "err", err)
		return
	}
	answer, read := t.takeSnapshot(ctx, s, h, &a, q)
	_ = s.Send(answer) // if it fails, the sender knows by itself
	// The sender closes the stream once it has the answer. But a group that has ended may still read from it.
	for read && err == nil {
		_, err = s.Recv()
	}
}

// takeSnapshot hands a snapshot to its group and returns the answer, and whether the group reads no more of the stream.
func (t *Transport) takeSnapshot(ctx context.Context, s Stream, h header, a *address, q *raft.InstallSnapshotRequest) (answer []byte, read bool) {
	g, _ := t.seat(h.group, a.to)
	if g == nil {
		return refusal(h, noSeat(h, a.to)), true
	}
	if response, err, skipped := g.skipSnapshot(ctx, q); skipped {
		return answerFrame(h, response, err), true
	}
	data := &snapshotReader{s: s, left: q.Size, taken: make(chan struct{})}
	if q.Size == 0 {
		close(data.taken)
	}
	if h.status == statusWorking { // not a sender of an earlier version, for which this would be the answer
		ended := tellWorking(s, h, data.taken)
		defer ended()
	}
	response, err := g.ask(ctx, q, data)
	return answerFrame(h, response, err), !errors.Is(err, errGroupClosed)
}

// tellWorking tells the sender every few seconds, once all octets were taken, that the group is at work on them: before that the sender sees
// it by what it can send, and does not listen. The function that it returns ends this; nothing more is sent then.
func tellWorking(s Stream, h header, taken <-chan struct{}) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-taken:
		case <-stop:
			return
		}
		ticker := time.NewTicker(workingPause)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
			if s.Send(answerHead(h, statusWorking)) != nil {
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// snapshotReader reads a snapshot's octets off its stream.
type snapshotReader struct {
	s     Stream
	left  int64
	taken chan struct{} // closed when nothing is left
	b     []byte
}

var errTooLong = errors.New("the snapshot is longer than announced")

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.b) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		b, err := r.s.Recv()
		if err != nil {
			return 0, fmt.Errorf("receive a snapshot: %w", err)
		}
		if r.left -= int64(len(b)); r.left < 0 {
			return 0, errTooLong
		}
		if r.left == 0 {
			close(r.taken)
		}
		r.b = b
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}
