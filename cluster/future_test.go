package cluster

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
)

// TestAnswerAfterShutdown: what lies in the library's buffer when the instance has shut down is not waited for for ever. About
// every other entry that is handed over after the end goes there. In a bubble waiting for ever is a deadlock.
func TestAnswerAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := baseConfig(slog.New(slog.DiscardHandler), "test")
		config.LocalID = raftnet.ServerID("node", 1)
		store := raft.NewInmemStore()
		_, transport := raft.NewInmemTransport(raft.ServerAddress(config.LocalID))
		r, err := raft.NewRaft(&config, &raft.MockFSM{}, store, store, raft.NewInmemSnapshotStore(), transport)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		close(over)
		for range maxAppendEntries {
			if err := answer(r.Apply(nil, 0), over); !errors.Is(err, raft.ErrRaftShutdown) {
				t.Errorf("answer after the end: %v", err)
			}
		}
	})
}
