package cluster

import (
	"bytes"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger makes the Raft library log to the node's log: its errors and warnings, which are about things that it mends by
// itself (a peer that does not answer, an election), as information; the rest for debugging.
func raftLogger(log *slog.Logger, group string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true, Output: raftWriter{log.With("group", group)}})
}

type raftWriter struct{ log *slog.Logger }

func (w raftWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	if bytes.HasPrefix(p, []byte("[ERROR]")) || bytes.HasPrefix(p, []byte("[WARN]")) {
		w.log.Info("raft", "says", line)
	} else {
		w.log.Debug("raft", "says", line)
	}
	return len(p), nil
}
