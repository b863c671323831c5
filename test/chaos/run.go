package chaos

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

const (
	readyWithin   = 120 * time.Second // a node serves again, whatever was done to it
	drainWithin   = 180 * time.Second // all queues run empty after the faults
	settleWithin  = 90 * time.Second  // memory, goroutines and files come back
	catalogWithin = 20 * time.Second  // for checking one queue name's history
)

// run is one run of the suite.
type run struct {
	o       *Options
	cluster *cluster
	ledger  *check.Ledger
	windows check.Windows
	series  *series
	replies *replies
	history history
	machine machine
	start   time.Time
	calm    atomic.Bool   // no faults any more: consumers neither crash nor give back
	over    atomic.Bool   // the run is at its end: clients are being closed
	sick    []atomic.Bool // nodes whose disk is full, hangs or fails: they may end by themselves
	clients
	roundQueues []roundQueue
}

// Result is what a run came to.
type Result struct {
	Started  time.Time
	Options  Options
	Schedule []*Action
	Verdict  *check.Verdict
	Catalog  check.CatalogVerdict
	Events   []check.Window
	Load     time.Duration // how long clients published
	Drain    time.Duration // how long it took until all queues were empty
	Total    time.Duration
	Errors   int // that clients saw; allowed except in the stable mode
	Refused  int // negative confirms
	Replies  string
	Baseline []string // what each node took before the load
	After    []string // and afterwards
	Hashes   string   // how the replicas' states compared
	Latency  map[string]time.Duration
	Gap      time.Duration // the longest between two confirms of one publisher, during the whole load
	GapOf    string        // whose that was, and when
	Series   []Point
	Logs     map[string]string `json:",omitempty"` // ends of the nodes' logs, when the run failed
	Rounds   []*Round          `json:",omitempty"`
	Notes    []string
}

// Failed says whether a checker found anything.
func (r *Result) Failed() bool { return r.Verdict.Failed() }

// Run does a whole run. An error means that the suite itself could not do its work; what it found is in the result.
func Run(ctx context.Context, options Options) (_ *Result, err error) {
	o := &options
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &run{o: o, start: time.Now(), sick: make([]atomic.Bool, o.Nodes)}
	r.ledger = check.NewLedger(r.now)
	r.series = newSeries(r.now)
	r.replies = newReplies()
	result := &Result{Started: r.start, Options: *o}
	for _, name := range o.Faults {
		if f := faultNamed(name); f.needs != nil && f.needs(o) != "" {
			result.Notes = append(result.Notes, fmt.Sprintf("fault %s is left out: %s", name, f.needs(o)))
		}
	}
	result.Schedule = Schedule(o)
	if r.cluster, err = newCluster(o, o.Dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.cluster.close()) }()
	if err := r.all(ctx, result); err != nil {
		for _, n := range r.cluster.nodes {
			r.say("the end of %s's log:\n%s", n.name, n.logTail(30))
		}
		return nil, fmt.Errorf("seed %d: %w", o.Seed, err)
	}
	return result, nil
}

// all is the run from the first start to the verdict.
func (r *run) all(ctx context.Context, result *Result) error {
	for _, n := range r.cluster.nodes {
		if err := n.start(r.ended); err != nil {
			return err
		}
	}
	if err := r.waitReady(ctx); err != nil {
		return err
	}
	r.say("%d nodes serve", len(r.cluster.nodes))
	if err := r.prepare(ctx); err != nil {
		return err
	}
	baseline, err := r.usages(ctx)
	if err != nil {
		return err
	}
	r.load(ctx, result)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted, nothing can be said: %w", ctx.Err())
	}
	r.say("all queues are empty after %v; checking", round(result.Drain))
	r.checkDrained()
	result.Hashes = r.checkDigests(ctx)
	if err := r.removeQueues(); err != nil {
		r.ledger.Report(check.Finding{Kind: check.NotDrained, Detail: err.Error()})
	}
	result.After = r.checkResources(ctx, baseline)
	for _, u := range baseline {
		result.Baseline = append(result.Baseline, u.String())
	}
	r.say("nodes are back at their baseline: %v", result.After)
	r.checkLogs()
	r.judge(result)
	return nil
}

// prepare declares what the workloads need and makes their clients.
func (r *run) prepare(ctx context.Context) error {
	l, err := r.open(r.o.stableNode())
	if err != nil {
		return err
	}
	defer l.close()
	if r.o.inRounds() {
		return r.prepareRounds(ctx, l)
	}
	share := float64(r.o.Rate) / float64(len(r.o.Workloads))
	for _, name := range r.o.Workloads {
		if err := workloads[name](r, l, share); err != nil {
			return err
		}
	}
	return nil
}

// load runs the clients and the faults, and then the clients alone until everything came out.
func (r *run) load(ctx context.Context, result *Result) {
	publishing, endPublishing := context.WithCancel(ctx)
	consuming, endConsuming := context.WithCancel(ctx)
	defer endConsuming()
	defer endPublishing()
	var publishers, consumers sync.WaitGroup
	for _, c := range r.consumers {
		consumers.Go(func() { c(consuming) })
	}
	for _, p := range r.publishers {
		publishers.Go(func() { p(publishing) })
	}
	watching, endWatching := context.WithCancel(ctx)
	defer endWatching()
	go func() {
		if err := r.machine.watch(watching, r.cluster.disks(), r.now); err != nil {
			r.say("watch the machine: %v", err)
		}
	}()
	r.series.expectAll()
	begin := r.now()
	if r.o.inRounds() {
		r.rounds(ctx, begin, result)
	} else {
		r.harm(ctx, begin, result)
	}
	r.calm.Store(true)
	r.expectConfirms(ctx)
	endPublishing()
	r.series.loadEnds()
	result.Load = r.now() - begin
	r.say("the load ends after %v; draining", result.Load.Round(time.Second))
	if !ended(&publishers, drainWithin) {
		r.ledger.Report(check.Finding{Kind: check.Stalled, Detail: fmt.Sprintf("publishers still wait %v after the last fault; %s", drainWithin, stacks())})
	}
	drain := r.now()
	for deadline := time.After(drainWithin); ; {
		outstanding := r.ledger.Outstanding()
		if outstanding == 0 {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
			continue
		case <-deadline:
			r.ledger.Report(check.Finding{Kind: check.NotDrained, Detail: fmt.Sprintf("%d confirmed messages did not come out within %v", outstanding, drainWithin)})
		case <-ctx.Done():
		}
		break
	}
	r.waitEmpty(ctx)
	result.Drain = r.now() - drain
	endConsuming()
	if !ended(&consumers, drainWithin) {
		r.ledger.Report(check.Finding{Kind: check.Stalled, Detail: "consumers do not end; " + stacks()})
	}
	r.over.Store(true)
}

// resumesWithin is how long after the last fault, when all nodes serve, a publisher may wait for a confirm.
const resumesWithin = 30 * time.Second

// expectConfirms waits until every publisher has had a confirm since the last fault, with a bound: everything goes on by itself.
func (r *run) expectConfirms(ctx context.Context) {
	bound := r.series.healed() + resumesWithin
	for ctx.Err() == nil && r.now() < bound && len(r.series.late(bound)) > 0 {
		r.waitUntil(ctx, r.now()+20*time.Millisecond)
	}
	for _, name := range r.series.late(bound) {
		if ctx.Err() == nil {
			r.ledger.Report(check.Finding{Kind: check.Stalled, Detail: fmt.Sprintf("%s had no confirm within %v of the last fault, though all nodes serve", name, resumesWithin)})
		}
	}
}

// ended waits for clients, with a bound.
func ended(clients *sync.WaitGroup, within time.Duration) bool {
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(within):
		return false
	}
}

func stacks() string {
	buffer := make([]byte, 64<<10)
	return string(buffer[:runtime.Stack(buffer, true)])
}

// harm does what the schedule says, and waits until the load has lasted long enough.
func (r *run) harm(ctx context.Context, begin time.Duration, result *Result) {
	random := r.random("pauses")
	for i, a := range result.Schedule {
		r.waitUntil(ctx, begin+a.At)
		if ctx.Err() != nil || r.now()-begin >= r.o.Duration {
			for _, rest := range result.Schedule[i:] {
				rest.Skipped = "the time was over"
			}
			break
		}
		var both sync.WaitGroup
		both.Go(func() { r.do(ctx, a) })
		if a.With != nil {
			a.With.company = true
			both.Go(func() {
				r.waitUntil(ctx, r.now()+a.With.At)
				r.do(ctx, a.With)
			})
		}
		both.Wait()
		r.waitUntil(ctx, r.now()+r.o.PauseMin+time.Duration(random.Int64N(int64(r.o.PauseMax-r.o.PauseMin)+1)))
	}
	r.waitUntil(ctx, begin+r.o.Duration)
}

// do injects one fault, holds it, heals it and waits until all nodes serve.
func (r *run) do(ctx context.Context, a *Action) {
	f := faultNamed(a.Fault)
	if f.leader {
		r.aim(a)
	}
	for _, v := range a.Victims {
		r.windows.Open(a.Fault, v, r.now(), f.severe())
	}
	a.Injected = r.now()
	err := f.inject(ctx, r, a)
	r.say("%v", a)
	if err == nil {
		r.waitUntil(ctx, r.now()+a.Hold)
	}
	err = errors.Join(err, f.heal(ctx, r, a))
	a.Healed = r.now()
	if err != nil {
		a.Skipped = err.Error()
		r.say("%s: %v", a.Fault, err)
	}
	if err := r.waitReady(ctx); err != nil {
		r.ledger.Report(check.Finding{Kind: check.NotReady, Detail: fmt.Sprintf("after %v: %v", a, err)})
	}
	a.Recovered = r.now()
	r.series.expectAll()
	for _, v := range a.Victims {
		r.windows.Close(a.Fault, v, r.now())
	}
	a.LongestGap = r.series.longestGap(a.Injected, a.Recovered, a.Recovered) // so far; see measureGaps
	a.TimerLate, a.SlowestFsync = r.machine.worst(a.Injected, a.Recovered)
	text := fmt.Sprintf("  recovered %v after it was healed; longest gap between two confirms so far %v; the machine: timers late by %v, fsync %v",
		round(a.Recovered-a.Healed), round(a.LongestGap), round(a.TimerLate), round(a.SlowestFsync))
	if a.Recovered-a.Healed > slowRecovery {
		for _, n := range r.cluster.nodes {
			text += "; " + n.name + " before: " + n.lastUnready()
		}
	}
	r.say("%s", text)
}

// slowRecovery is worth a word on why.
const slowRecovery = 5 * time.Second

// waitReady waits until every node serves, also those that another fault still holds. One whose disk is sick may end, and is started again by
// who heals it.
func (r *run) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	var errs []error
	for _, n := range r.cluster.nodes {
		errs = append(errs, n.waitReady(ctx, r.sick[n.index].Load))
	}
	return errors.Join(errs...)
}

func (r *run) waitUntil(ctx context.Context, at time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(at - r.now()):
	}
}

// ended is told when a process ended that nobody had ended.
func (r *run) ended(n *Node) {
	if r.sick[n.index].Load() {
		return // it is started again when its disk is well
	}
	r.machine.mu.Lock()
	r.machine.ends = append(r.machine.ends, nodeEnd{at: r.now(), name: n.name, tail: n.logTail(40)})
	r.machine.mu.Unlock()
	r.say("%s ended by itself", n.name)
	// The run goes on with it, so that it tells more than that.
	if n.ends++; n.ends <= maxEnds && !r.over.Load() {
		if err := n.start(r.ended); err != nil {
			r.say("%v", err)
		}
	}
}

// maxEnds is how often a node that ends by itself is started again.
const maxEnds = 3

// aim turns an action on the leader, unless that is unknown, or the action has company that may be busy with it.
func (r *run) aim(a *Action) {
	node, known := r.leader()
	if known && a.With == nil && !a.company && (!r.o.Stable || node != r.o.stableNode()) {
		a.Victims = []int{node}
	}
}

// leader says which node leads the catalog: the one that says so itself, or the one whose log said so last.
func (r *run) leader() (node int, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, n := range r.cluster.nodes {
		if s, err := n.standings(ctx); err == nil && s.leadsCatalog {
			return n.index, true
		}
	}
	var latest time.Time
	for _, n := range r.cluster.nodes {
		if at := n.led("catalog", time.Now()); at.After(latest) {
			latest, node, known = at, n.index, true
		}
	}
	return node, known
}

func (r *run) now() time.Duration { return time.Since(r.start) }

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.o.Progress, "%8.3fs  %s\n", r.now().Seconds(), fmt.Sprintf(format, args...))
}
