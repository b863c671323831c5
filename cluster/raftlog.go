package cluster

import (
	"bytes"
	"log/slog"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// raftLogger makes the Raft library log to the node's log: its errors and warnings, which are about things that it mends by
// itself (a peer that does not answer, an election), as information; the rest for debugging.
func raftLogger(log *slog.Logger, group string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true, Output: raftWriter{log.With("group", group), rate.NewLimiter(linesPerSecond, linesAtOnce)}})
}

// raftWriter takes the library's lines. A peer that is away makes it say the same many times a second for each group: beyond
// a few in a row they are for debugging.
type raftWriter struct {
	log   *slog.Logger
	limit *rate.Limiter
}

// A group tells so many lines a second, after so many at once.
const (
	linesPerSecond = 0.2
	linesAtOnce    = 3
)

func (w raftWriter) Write(p []byte) (int, error) {
	line := string(bytes.TrimSpace(p))
	if (bytes.HasPrefix(p, []byte("[ERROR]")) || bytes.HasPrefix(p, []byte("[WARN]"))) && w.limit.Allow() {
		w.log.Info("raft", "says", line)
	} else {
		w.log.Debug("raft", "says", line)
	}
	return len(p), nil
}
