package node

import (
	"context"
	"log/slog"

	"github.com/warrenmq/warren/cluster"
)

// What a data directory holds, and how it becomes a cluster of its own: for a node that does not run.
type (
	DataOptions    = cluster.DataOptions
	DataReport     = cluster.DataReport
	GroupReport    = cluster.GroupReport
	RecoverOptions = cluster.RecoverOptions
	Recovered      = cluster.Recovered
)

// InspectData tells what a data directory holds.
func InspectData(dir string, log *slog.Logger) (*DataReport, error) {
	return cluster.InspectData(DataOptions{Dir: dir, Logger: log})
}

// Recover makes the node of a data directory the only member of a cluster that has the data there.
func Recover(ctx context.Context, o RecoverOptions) (*Recovered, error) {
	return cluster.Recover(ctx, o)
}
