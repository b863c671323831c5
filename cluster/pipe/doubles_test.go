package pipe

import (
	"context"
	"errors"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// nowhere knows no leader, no host and no way.
type nowhere struct{}

func (nowhere) Open(context.Context, uint16) (Link, error) { return nil, errors.New("no way") }
func (nowhere) Call(context.Context, uint16, []byte) ([]byte, error) {
	return nil, errors.New("no way")
}
func (nowhere) Leader(queue.ShardID) (uint16, bool) { return 0, false }
func (nowhere) Host(queue.ShardID) *Host            { return nil }

// only has one host, whatever is asked for.
type only struct{ h *Host }

func (o only) Host(queue.ShardID) *Host { return o.h }
