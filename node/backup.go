package node

import (
	"context"
	"io"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// BackupCatalog implements management.Backups.
func (o operators) BackupCatalog(ctx context.Context, w io.Writer) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	return c.BackupCatalog(ctx, w)
}

// BackupShard implements management.Backups.
func (o operators) BackupShard(ctx context.Context, shard uint16, w io.Writer) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	return c.BackupShard(ctx, queue.ShardID(shard), w)
}

// Restore implements management.Backups.
func (o operators) Restore(ctx context.Context, r io.Reader) (any, error) {
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	return c.Restore(ctx, r)
}
