package cluster

import (
	"context"
	"fmt"
	"strings"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// A rolling upgrade starts each node with a newer program, one after the other. Meanwhile all act as the oldest does: what a
// command means is a matter of the machine version that is in force, not of the program. Each run of a node registers the latest
// version that its program knows. When all members know a later one than is in force, the catalog's leader proposes it; from
// that command on no node with an older program is let in, and one that reads it stops. Then each shard's leader raises its
// machine. There is no way back.

// raiseVersion puts the latest version that all members know into force. This node leads the catalog.
func (c *Cluster) raiseVersion(ctx context.Context) error {
	var inForce, known uint32
	c.catalog.read(func(s *catalog.State) {
		inForce, known = s.MachineVersion(), catalog.LatestMachineVersion
		for n := range s.Nodes() {
			known = min(known, n.MachineVersion)
		}
	})
	if known <= inForce {
		return nil
	}
	c.log.Info("all nodes know a later machine version", "version", known, "in force", inForce)
	_, err := c.Propose(ctx, catalog.SetMachineVersion(&raftv1.SetMachineVersion{Version: known}))
	return err
}

// raiseShards has the machines of the shards that this node leads follow the catalog's version, and that of its exclusive queues.
func (c *Cluster) raiseShards() {
	var version uint32
	c.catalog.read(func(s *catalog.State) { version = s.MachineVersion() })
	for _, s := range c.shards() {
		s.host.Raise(version)
	}
	select {
	case <-c.joined:
		c.local.Raise(version)
	default:
	}
}

// heldBack says what keeps a later machine version from being in force; empty: nothing.
func heldBack(o *Overview) string {
	latest := o.MachineVersion
	for _, m := range o.Nodes {
		latest = max(latest, m.MachineVersion)
	}
	var older []string
	for _, m := range o.Nodes {
		if m.MachineVersion < latest {
			older = append(older, fmt.Sprintf("'%s' (%d)", m.Name, m.MachineVersion))
		}
	}
	if len(older) == 0 {
		return ""
	}
	return fmt.Sprintf("machine version %d comes into force when all nodes run a program that knows it; still older: %s", latest, strings.Join(older, ", "))
}
