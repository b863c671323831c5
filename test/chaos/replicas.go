package chaos

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// What nodes tell of their replicas.

// standings are the shards of which a node has a replica, and the catalog.
type standings struct {
	leadsCatalog bool
	leads        map[string]bool    // by shard
	applied      map[string]float64 // index, by shard
}

// standings asks the node's metrics.
func (n *Node) standings(ctx context.Context) (*standings, error) {
	status, text, err := n.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: metrics: status %d", n.name, status)
	}
	return parseStandings(text)
}

func parseStandings(text string) (*standings, error) {
	s := &standings{leads: map[string]bool{}, applied: map[string]float64{}, leadsCatalog: metric(text, "warren_catalog_leader") == 1}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "warren_shard_")
		if !ok {
			continue
		}
		var name, shard string
		var value float64
		rest = strings.NewReplacer(`{shard="`, " ", `"}`, "").Replace(rest)
		if _, err := fmt.Sscan(rest, &name, &shard, &value); err != nil {
			return nil, fmt.Errorf("metric %q: %w", line, err)
		}
		switch name {
		case "leader":
			s.leads[shard] = value == 1
		case "applied_index":
			s.applied[shard] = value
		}
	}
	return s, nil
}

// allStandings asks all nodes.
func (r *run) allStandings(ctx context.Context) ([]*standings, error) {
	list := make([]*standings, len(r.cluster.nodes))
	for i, n := range r.cluster.nodes {
		var err error
		if list[i], err = n.standings(ctx); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// caughtUp waits until every replica has applied what any replica of its shard had applied when it was asked first.
func (r *run) caughtUp(ctx context.Context) error {
	var goal map[string]float64
	for {
		behind := "no answer"
		all, err := r.allStandings(ctx)
		if err == nil {
			behind = ""
			if goal == nil {
				goal = furthest(all)
			}
			for i, s := range all {
				for shard, index := range s.applied {
					if index < goal[shard] {
						behind = fmt.Sprintf("%s is at %.0f of shard %s, another was at %.0f", r.cluster.nodes[i].name, index, shard, goal[shard])
					}
				}
			}
			if behind == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replicas do not catch up: %s", behind)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func furthest(all []*standings) map[string]float64 {
	goal := map[string]float64{}
	for _, s := range all {
		for shard, index := range s.applied {
			goal[shard] = max(goal[shard], index)
		}
	}
	return goal
}

// digest is a replica's state in short.
type digest struct {
	index uint64
	sum   string
}

// digests asks the node for the states of its replicas, by group.
func (n *Node) digests(ctx context.Context) (map[string]digest, error) {
	status, text, err := n.get(ctx, "/debug/digests")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %s", n.name, status, text)
	}
	list := map[string]digest{}
	for line := range strings.Lines(text) {
		var group string
		var d digest
		if _, err := fmt.Sscan(line, &group, &d.index, &d.sum); err != nil {
			return nil, fmt.Errorf("%s: digest %q: %w", n.name, line, err)
		}
		list[group] = d
	}
	return list, nil
}

// checkDigests holds the replicas' states against one another. Replicas are compared at the same index, which they reach now
// that the clients are gone; those that are never seen at the same one are a finding too: somebody does not follow.
func (r *run) checkDigests(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	c := comparison{replicas: min(r.o.Nodes, 3), equal: map[string]bool{}, different: map[string]string{}}
	for {
		all := make([]map[string]digest, len(r.cluster.nodes))
		var err error
		for i, n := range r.cluster.nodes {
			if all[i], err = n.digests(ctx); err != nil {
				break
			}
		}
		if err == nil && c.compare(all) {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		r.ledger.Report(check.Finding{Kind: check.StateHash, Detail: fmt.Sprintf("replicas were never seen at the same index: %v (%v)", c.pending, err)})
		break
	}
	for _, group := range slices.Sorted(maps.Keys(c.different)) {
		r.ledger.Report(check.Finding{Kind: check.StateHash, Detail: group + ": " + c.different[group]})
	}
	return fmt.Sprintf("%d groups equal on all replicas, %d differ, %d not compared", len(c.equal), len(c.different), len(c.pending))
}

// comparison is what was found out about the groups so far.
type comparison struct {
	replicas  int // that each group must have
	equal     map[string]bool
	different map[string]string
	pending   []string
}

// compare looks at one sample of all nodes and says whether every group has been decided on.
func (c *comparison) compare(all []map[string]digest) (done bool) {
	byGroup := map[string][]digest{}
	for _, list := range all {
		for group, d := range list {
			byGroup[group] = append(byGroup[group], d)
		}
	}
	c.pending = nil
	for group, replicas := range byGroup {
		sameIndex := !slices.ContainsFunc(replicas, func(d digest) bool { return d.index != replicas[0].index })
		sameSum := !slices.ContainsFunc(replicas, func(d digest) bool { return d.sum != replicas[0].sum })
		switch {
		case c.equal[group] || c.different[group] != "":
		case !sameIndex || len(replicas) < c.replicas: // one may be on its way to a node that was emptied
			c.pending = append(c.pending, group)
		case sameSum:
			c.equal[group] = true
		default:
			c.different[group] = fmt.Sprintf("at index %d the replicas differ: %v", replicas[0].index, replicas)
		}
	}
	slices.Sort(c.pending)
	return len(byGroup) > 0 && len(c.pending) == 0
}
