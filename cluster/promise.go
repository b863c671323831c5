package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// More nodes may wait than are to begin a cluster, and none knows of all at first: two of them could each find enough and begin one. So who
// founds a cluster has every node that it knows of, and that expects as many, promise first that it has a part in no other; and a node
// promises one at a time. A promise is durable, as the cluster of it may exist from then on. It ends when it is known that the cluster never will:
//
//   - Its founder says so. A try to found has an id of its own and is known to the founder's process alone, until its cluster.json is
//     durable: who has neither does not found that cluster any more.
//   - Its founder could not be reached for sessionGrace, and half of the first members or more have given the cluster up: they never
//     take part by Bootstrap. It would need more than half of its first members to do anything, so there is no such cluster, whatever the founder
//     has written down.
//
// A first member's promise stays until it has registered: it tells that the cluster may have gone on without it (letInAgain).

const (
	promiseFile = "promise.json"
	// maxGivenUp bounds how many clusters a node gives up: each is a founder that died while it founded.
	maxGivenUp = 64
)

// promise is what a node without a cluster has promised.
type promise struct {
	ClusterID string         `json:"cluster_id"`        // of which it may have a part; empty: of any
	Servers   []foundingNode `json:"servers,omitempty"` // that cluster's first members; the first one founds it
	GivenUp   []string       `json:"given_up,omitempty"`
}

// readPromise reads what this node has promised, after what cluster it is in. The founder's own promise stands for nothing without the cluster.
func (c *Cluster) readPromise() error {
	var p promise
	_, err := load(c.o.DataDir, promiseFile, &p)
	f := c.founded.Load()
	switch {
	case err != nil && (f != nil || c.lost):
		c.log.Warn("what this node has promised cannot be read; it is a member", "err", err)
		p = promise{}
	case err != nil:
		return fmt.Errorf("%w: this node has no data and may have promised something; empty %s", err, c.o.DataDir)
	case f == nil && !c.lost && len(p.Servers) > 0 && p.Servers[0].UUID == c.identity.UUID:
		p = promise{GivenUp: p.GivenUp}
	}
	c.promised.Store(&p)
	c.heard = time.Now()
	return nil
}

// promise makes a promise durable. c.mu is held.
func (c *Cluster) promise(p promise) error {
	if err := save(c.o.DataDir, promiseFile, p); err != nil {
		return fmt.Errorf("write down a promise: %w", err)
	}
	c.promised.Store(&p)
	c.heard = time.Now()
	return nil
}

// Promise implements the Control service. A promise to a try that has failed, of the same founder even, is not to hold this one up.
func (s controlServer) Promise(ctx context.Context, q *nodev1.PromiseRequest) (*nodev1.PromiseResponse, error) {
	err := s.c.promiseTo(q)
	if errors.Is(err, errPromised) {
		s.c.review(ctx)
		err = s.c.promiseTo(q)
	}
	if err != nil {
		return &nodev1.PromiseResponse{Refusal: err.Error()}, nil
	}
	return &nodev1.PromiseResponse{}, nil
}

var errPromised = errors.New("the node has promised to be of another cluster")

func (c *Cluster) promiseTo(q *nodev1.PromiseRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.promised.Load()
	switch {
	case q.Uuid != c.identity.UUID:
		return errOtherNode
	case q.ClusterId == "" || c.lost || c.o.Expect != len(q.Servers):
		return fmt.Errorf("node %s does not wait for %d nodes", c.o.Name, len(q.Servers))
	case c.founded.Load() != nil:
		return fmt.Errorf("node %s is in cluster %s", c.o.Name, c.clusterID())
	case c.founds != "":
		return fmt.Errorf("node %s founds a cluster itself", c.o.Name)
	case is.ClusterID != "" && is.ClusterID != q.ClusterId || slices.Contains(is.GivenUp, q.ClusterId):
		return errPromised
	}
	return c.promise(promise{q.ClusterId, foundingNodes(q.Servers), is.GivenUp})
}

// foundWith founds a cluster if all nodes that are asked promise to have a part in no other. They promise anew for each try, so that all of
// them live.
func (c *Cluster) foundWith(ctx context.Context, f founding, ask []*nodev1.Member) error {
	c.mu.Lock()
	if c.founded.Load() != nil || c.promised.Load().ClusterID != "" {
		c.mu.Unlock()
		return nil
	}
	c.founds = f.ClusterID
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.founds = ""
		c.mu.Unlock()
	}()
	asking, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	all, asking := errgroup.WithContext(asking)
	for _, m := range ask {
		all.Go(func() error { return c.askPromise(asking, m, &f) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.promise(promise{f.ClusterID, f.Servers, c.promised.Load().GivenUp}); err != nil {
		return err
	}
	return c.foundLocked(f)
}

func (c *Cluster) askPromise(ctx context.Context, m *nodev1.Member, f *founding) error {
	control, err := c.network.Control(m.Uuid)
	if err != nil {
		return fmt.Errorf("ask node %s for a promise: %w", m.Name, err)
	}
	response, err := control.Promise(ctx, &nodev1.PromiseRequest{Uuid: m.Uuid, ClusterId: f.ClusterID, Servers: servers(f.Servers)})
	if err == nil && response.Refusal != "" {
		err = errors.New(response.Refusal)
	}
	if err != nil {
		return fmt.Errorf("ask node %s for a promise: %w", m.Name, err)
	}
	return nil
}

// GiveUp implements the Control service.
func (s controlServer) GiveUp(_ context.Context, q *nodev1.GiveUpRequest) (*nodev1.GiveUpResponse, error) {
	given, err := s.c.giveUpFor(q)
	if err != nil {
		return &nodev1.GiveUpResponse{Refusal: err.Error()}, nil
	}
	return &nodev1.GiveUpResponse{GivenUp: given}, nil
}

// giveUpFor tells whether this node has no part in a cluster, and never will have one by Bootstrap. It gives up what it has promised when it
// has not reached the founder for long either.
func (c *Cluster) giveUpFor(q *nodev1.GiveUpRequest) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, is := c.founded.Load(), c.promised.Load()
	switch {
	case q.Uuid != c.identity.UUID:
		return false, errOtherNode
	case f != nil || c.lost:
		return f != nil && f.ClusterID != q.ClusterId, nil
	case q.Founder == q.Uuid:
		return c.founds != q.ClusterId, nil
	case slices.Contains(is.GivenUp, q.ClusterId):
		return true, nil
	case is.ClusterID == q.ClusterId && time.Since(c.heard) <= sessionGrace || len(is.GivenUp) >= maxGivenUp:
		return false, nil
	}
	heard := c.heard
	err := c.promise(promise{is.ClusterID, is.Servers, append(slices.Clone(is.GivenUp), q.ClusterId)})
	c.heard = heard
	return err == nil, err
}

// review ends this node's promise if the cluster that it is for will not be.
func (c *Cluster) review(ctx context.Context) {
	p := c.promised.Load()
	if p.ClusterID == "" {
		return
	}
	given, err := c.askGivenUp(ctx, p.Servers[0].UUID, p)
	c.mu.Lock()
	if err == nil {
		c.heard = time.Now()
	}
	silent := time.Since(c.heard)
	c.mu.Unlock()
	if err != nil && silent > sessionGrace {
		n := 0
		for _, s := range p.Servers[1:] {
			if done, err := c.askGivenUp(ctx, s.UUID, p); err == nil && done {
				n++
			}
		}
		given = 2*n >= len(p.Servers)
	}
	if given {
		c.release(p.ClusterID)
	}
}

func (c *Cluster) askGivenUp(ctx context.Context, uuid string, p *promise) (bool, error) {
	q := &nodev1.GiveUpRequest{Uuid: uuid, ClusterId: p.ClusterID, Founder: p.Servers[0].UUID}
	if uuid == c.identity.UUID {
		return c.giveUpFor(q)
	}
	control, err := c.network.Control(uuid)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	response, err := control.GiveUp(ctx, q)
	if err == nil && response.Refusal != "" {
		err = errors.New(response.Refusal)
	}
	return err == nil && response.GivenUp, err
}

// release ends a promise, unless this node has become a member meanwhile.
func (c *Cluster) release(clusterID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.promised.Load()
	if is.ClusterID != clusterID || c.founded.Load() != nil {
		return
	}
	if err := c.promise(promise{GivenUp: is.GivenUp}); err != nil {
		c.log.Error("end a promise", "err", err)
	}
}

// bootstrap takes this node's part in a cluster that has begun, as it has promised.
func (c *Cluster) bootstrap(f founding) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.promised.Load()
	if c.founded.Load() == nil && (is.ClusterID != f.ClusterID || slices.Contains(is.GivenUp, f.ClusterID)) {
		return fmt.Errorf("node %s has not promised to be of cluster %s", c.o.Name, f.ClusterID)
	}
	return c.foundLocked(f)
}

// unregistered tells whether this node is a first member that has never been registered.
func (c *Cluster) unregistered() bool {
	f := c.founded.Load()
	return f != nil && f.first(c.identity.UUID) && c.promised.Load().ClusterID == f.ClusterID
}

// promiseKept forgets a promise: this node is registered.
func (c *Cluster) promiseKept() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.promised.Load().ClusterID == "" {
		return nil
	}
	c.promised.Store(&promise{})
	err := os.Remove(filepath.Join(c.o.DataDir, promiseFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, syncDir(c.o.DataDir)); err != nil {
		return fmt.Errorf("forget a promise that was kept: %w", err)
	}
	return nil
}

func servers(nodes []foundingNode) (list []*nodev1.Server) {
	for _, n := range nodes {
		list = append(list, &nodev1.Server{Uuid: n.UUID, Address: n.Address})
	}
	return list
}

func foundingNodes(servers []*nodev1.Server) (list []foundingNode) {
	for _, s := range servers {
		list = append(list, foundingNode{s.Uuid, s.Address})
	}
	return list
}
