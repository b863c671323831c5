package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/cluster"
	"github.com/warrenmq/warren/test/chaos/check"
)

// sim is one schedule under way.
type sim struct {
	plan    *plan
	network *network
	nodes   []*node
	ledger  *check.Ledger
	windows check.Windows // of faults that end processes: they excuse redeliveries
	trouble check.Windows // of all faults: they excuse errors of clients
	queues  []*check.Queue
	delays  map[[2]int]time.Duration
	began   time.Time
	work    sync.WaitGroup // the nodes' goroutines of ours

	operations atomic.Int64 // of the catalog's clients

	mu      sync.Mutex // guards what follows
	random  *rand.Rand
	clocks  map[int]time.Duration
	history []check.CatalogOp
	errors  []clientError
	deaths  []death
	wrong   []string // what failed meanwhile beside the checkers' findings
	lines   []string
	last    time.Time // of the last confirm or delivery
}

// outcome is what a schedule came to.
type outcome struct {
	seed     uint64
	plan     *plan
	verdict  *check.Verdict
	history  []check.CatalogOp
	catalog  check.CatalogVerdict
	errors   []clientError
	took     time.Duration // of the bubble's time
	lines    []string
	failures []string // beside the verdict's findings
}

// play runs one schedule. It is called in a bubble; judge completes the outcome outside.
func play(seed uint64, p *plan, root string) *outcome {
	s := &sim{plan: p, delays: map[[2]int]time.Duration{}, clocks: map[int]time.Duration{}, began: time.Now(), random: rand.New(rand.NewPCG(seed, 2))}
	s.ledger = check.NewLedger(s.now)
	s.network = newNetwork(p.nodes, s.fork())
	s.baseDelays(s.fork())
	for i := range p.nodes {
		s.nodes = append(s.nodes, &node{s: s, number: i, disk: newDisk(filepath.Join(root, fmt.Sprintf("n%d", i+1)))})
	}
	o := &outcome{seed: seed, plan: p}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-done:
		case <-time.After(endsWithin):
			panic(fmt.Sprintf("seed %d has not ended within %v:\n%v", seed, endsWithin, p))
		}
	}()
	if err := s.live(); err != nil {
		o.failures = append(o.failures, err.Error())
	}
	o.failures = append(o.failures, s.endNodes()...)
	o.failures = append(o.failures, s.wrong...)
	s.work.Wait()
	o.took = s.now()
	// The libraries' goroutines end when their timers do; time stands still once the bubble's first goroutine has ended. What
	// does not end then is a leak, and the bubble panics with its stack.
	time.Sleep(lingering)
	o.verdict = s.ledger.Judge(s.windows.All())
	o.history, o.errors, o.lines = s.history, s.unexcused(), s.lines
	return o
}

// judge does what a bubble has no time for.
func (o *outcome) judge() {
	o.catalog = check.Linearizable(o.history, 20*time.Second)
}

// failed tells whether any promise was broken.
func (o *outcome) failed() bool {
	return len(o.failures) > 0 || o.verdict.Failed() || len(o.catalog.Findings) > 0 || o.catalog.Undecidable() || len(o.errors) > 0
}

func (o *outcome) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d confirmed of %d published, %d deliveries, %d operations, %v\n%v", o.seed, o.verdict.Confirmed, o.verdict.Published,
		o.verdict.Deliveries, len(o.history), o.took.Round(time.Millisecond), o.plan)
	for _, f := range o.failures {
		fmt.Fprintln(&b, f)
	}
	for _, f := range append(o.verdict.Findings, o.catalog.Findings...) {
		fmt.Fprintln(&b, f)
	}
	if o.catalog.Undecided > 0 {
		fmt.Fprintf(&b, "catalog: %d of %d histories could not be decided on\n", o.catalog.Undecided, o.catalog.Queues)
	}
	for i, e := range o.errors {
		if i < 20 {
			fmt.Fprintf(&b, "client error at %v: %s\n", e.at, e.text)
		}
	}
	return b.String()
}

const (
	// beginsWithin bounds the time to begin a cluster, in the bubble's time as all of these.
	beginsWithin = 2 * time.Minute
	// healsWithin bounds the time from the last fault's end until every node serves.
	healsWithin = 3 * time.Minute
	// drainsWithin bounds the time until everything that was confirmed has come out, and every publisher has its answers.
	drainsWithin = 3 * time.Minute
	// endsWithin bounds everything: what waits for ever beside others that do not would not be seen otherwise.
	endsWithin = time.Hour
	// lingering is how long a library's goroutine may live on after its end.
	lingering = time.Minute
	// agreesWithin bounds the time until all replicas have the same state when nothing happens any more.
	agreesWithin = time.Minute
)

// live is the life of the cluster: it begins, has load and faults, and comes to rest.
func (s *sim) live() error {
	for _, n := range s.nodes {
		n.start()
	}
	if err := s.until(beginsWithin, "every node serves", s.allServe); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var consumers, publishers sync.WaitGroup
	defer consumers.Wait()
	defer publishers.Wait()
	defer cancel()
	begin := s.now()
	calm := make(chan struct{})
	if err := s.load(ctx, calm, &publishers, &consumers); err != nil {
		return fmt.Errorf("declare: %w", err)
	}
	s.harm(begin)
	for _, n := range s.nodes {
		n.start()
	}
	if err := s.until(healsWithin, "every node serves again", s.allServe); err != nil {
		return err
	}
	s.closeWindows()
	close(calm)
	published := make(chan struct{})
	go func() { publishers.Wait(); close(published) }()
	if err := s.until(drainsWithin, "every publisher has its confirms", func() string {
		select {
		case <-published:
			return ""
		default:
			return "some do not"
		}
	}); err != nil {
		return err
	}
	if err := s.until(drainsWithin, "everything confirmed has come out", func() string {
		if n := s.ledger.Outstanding(); n > 0 {
			return fmt.Sprintf("%d messages have not", n)
		}
		return ""
	}); err != nil {
		return err
	}
	cancel()
	consumers.Wait()
	return s.until(agreesWithin, "all replicas have the same state", s.disagreement)
}

// load begins the workload; calm is closed when the faults are over.
func (s *sim) load(ctx context.Context, calm <-chan struct{}, publishers, consumers *sync.WaitGroup) error {
	ordered, work := s.addQueue("ordered", true), s.addQueue("work", false)
	left, right := s.addQueue("left", false), s.addQueue("right", false)
	backlog := s.addQueue("backlog", true)
	if err := s.declareAll(ctx); err != nil {
		return err
	}
	publish := func(name, exchange, key string, queues ...*check.Queue) {
		p := &publisher{s: s, entry: s.ledger.Publisher(name, to(queues...)), exchange: exchange, key: key, random: s.fork(), left: s.plan.messages, window: 20}
		publishers.Go(func() { p.run(ctx) })
	}
	publish("ordered", "", ordered.Name(), ordered)
	publish("work-1", "", work.Name(), work)
	publish("work-2", "", work.Name(), work)
	publish("fanout", fanout, "", left, right)
	publish("backlog", "", backlog.Name(), backlog)
	for _, k := range []*consumer{{queue: ordered}, {queue: work, giveBack: true}, {queue: work}, {queue: left}} {
		k.s, k.random, k.lasting = s, s.fork(), 3*time.Second
		consumers.Go(func() { k.run(ctx) })
	}
	late := &consumer{s: s, queue: backlog, random: s.fork(), lasting: 3 * time.Second}
	consumers.Go(func() {
		select {
		case <-calm:
			late.run(ctx)
		case <-ctx.Done():
		}
	})
	getter := &consumer{s: s, queue: right, random: s.fork()}
	consumers.Go(func() { getter.runGets(ctx) })
	for i := range 2 {
		random := s.fork()
		consumers.Go(func() { s.operator(ctx, i, random) })
	}
	return nil
}

// harm carries the schedule's faults out, and heals everything at the end.
func (s *sim) harm(begin time.Duration) {
	type step struct {
		at   time.Duration
		do   func(*sim, *action)
		a    *action
		heal bool
	}
	var steps []step
	for _, a := range s.plan.actions {
		steps = append(steps, step{a.at, a.fault.inject, a, false}, step{a.at + a.lasts, a.fault.heal, a, true})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	var acting sync.WaitGroup
	begun, healed := map[*action]chan struct{}{}, map[*action]chan struct{}{}
	for _, a := range s.plan.actions {
		begun[a], healed[a] = make(chan struct{}), make(chan struct{})
	}
	for i, st := range steps {
		time.Sleep(begin + st.at - s.now())
		if !st.heal {
			for _, before := range steps[:i] { // a node that takes long to stop would be one too many beside the next
				if before.heal {
					<-healed[before.a]
				}
			}
			s.choose(st.a)
			for _, v := range st.a.victims {
				s.trouble.Open(st.a.fault.name, v, s.now(), true)
				if st.a.fault.ends {
					s.windows.Open(st.a.fault.name, v, s.now(), true)
				}
			}
		}
		what := "heals"
		if !st.heal {
			what = "begins"
		}
		acting.Go(func() {
			if st.heal {
				<-begun[st.a]
				defer close(healed[st.a])
			} else {
				defer close(begun[st.a])
			}
			st.do(s, st.a)
			s.note(fmt.Sprintf("--- %s %s %v %s", st.a.fault.name, what, st.a.victims, st.a.detail))
		})
	}
	acting.Wait()
	s.healNetwork()
	for i, n := range s.nodes {
		s.network.freeze(i, false)
		if r := n.present(); r != nil {
			r.mount.setFull(false)
			r.mount.slow(s.plan.sync)
		}
		s.step(i, 0)
	}
}

// choose replaces the victim by the node that leads, if the fault wants that.
func (s *sim) choose(a *action) {
	if !a.fault.leader {
		return
	}
	for _, n := range s.nodes {
		if r := n.serving(); r != nil && r.member().LeadsCatalog() {
			a.victims = []int{n.number}
			return
		}
	}
}

// closeWindows ends all windows of faults.
func (s *sim) closeWindows() {
	for _, windows := range []*check.Windows{&s.windows, &s.trouble} {
		for _, w := range windows.All() {
			windows.Close(w.Fault, w.Node, s.now())
		}
	}
}

// until waits for a condition, which tells what is missing.
func (s *sim) until(within time.Duration, what string, missing func() string) error {
	for end := s.now() + within; ; time.Sleep(20 * time.Millisecond) {
		why := missing()
		if why == "" {
			return nil
		}
		if s.now() > end {
			return fmt.Errorf("not within %v: %s: %s", within, what, why)
		}
	}
}

func (s *sim) allServe() string {
	for _, n := range s.nodes {
		r := n.present()
		if r == nil {
			n.start() // it has ended itself; whether it should have is judged at the end
			return fmt.Sprintf("n%d does not run", n.number+1)
		}
		if n.serving() == nil {
			return r.name + " has not started"
		}
		if err := r.member().Ready(); err != nil {
			return fmt.Sprintf("%s: %v", r.name, err)
		}
	}
	return ""
}

// disagreement tells which replicas differ.
func (s *sim) disagreement() string {
	if why := s.allServe(); why != "" {
		return why
	}
	first := map[uint32]cluster.Digest{}
	count := map[uint32]int{}
	for _, n := range s.nodes {
		r := n.serving()
		if r == nil {
			return fmt.Sprintf("n%d does not serve", n.number+1)
		}
		list, err := r.member().Digests()
		if err != nil {
			return err.Error()
		}
		for _, d := range list {
			count[d.Group]++
			f, ok := first[d.Group]
			if !ok {
				first[d.Group] = d
			} else if d != f {
				return fmt.Sprintf("group %d on %s: %x at %d, elsewhere %x at %d", d.Group, r.name, d.Sum[:4], d.Index, f.Sum[:4], f.Index)
			}
		}
	}
	for shard := range uint32(s.plan.shards) {
		if count[shard] != s.plan.replicas {
			return fmt.Sprintf("shard %d has %d replicas", shard, count[shard])
		}
	}
	return ""
}

// endNodes stops all nodes, gracefully, and tells which had ended themselves without a reason.
func (s *sim) endNodes() (failures []string) {
	for _, n := range s.nodes {
		if r := n.present(); r != nil {
			if err := n.stop(r); err != nil {
				failures = append(failures, fmt.Sprintf("stop %s: %v", r.name, err))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.deaths {
		if !d.excused(s.plan.actions) {
			failures = append(failures, fmt.Sprintf("%s ended itself at %v: %v", d.name, d.at, d.err))
		}
	}
	return failures
}

// failed notes what must not fail, whatever the checkers say.
func (s *sim) failed(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, text)
}

func (s *sim) died(d death) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaths = append(s.deaths, d)
}

// death is the end of a process by itself.
type death struct {
	name string
	node int
	at   time.Duration
	err  error
}

// excused tells whether a fault of the disk is a reason.
func (d *death) excused(actions []*action) bool {
	for _, a := range actions {
		if a.fault.ends && a.fault.group == "disk" && slices.Contains(a.victims, d.node) {
			return true
		}
	}
	return false
}

// operationTimeout is how long an operation of a client may last; one may fail because of what was then.
const operationTimeout = 35 * time.Second

// unexcused are the errors that clients saw though their node was well and a majority, too.
func (s *sim) unexcused() (list []clientError) {
	trouble := s.trouble.All()
	for _, e := range s.errors {
		if !check.Troubled(trouble, e.node, len(s.nodes), e.at-operationTimeout, e.at) {
			list = append(list, e)
		}
	}
	return list
}

// now is the time since the schedule began.
func (s *sim) now() time.Duration { return time.Since(s.began) }

// clock is a node's wall clock.
func (s *sim) clock(node int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.clocks[node])
}

// step sets how far a node's clock is off.
func (s *sim) step(node int, by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clocks[node] = by
}

// progress notes that a message was confirmed or delivered.
func (s *sim) progress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
}

// fork makes a source of choices for one of the schedule's parts.
func (s *sim) fork() *rand.Rand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rand.New(rand.NewPCG(s.random.Uint64(), s.random.Uint64()))
}

// maxLines is how much of the nodes' logs is kept at the least, from the end.
const maxLines = 5000

// note adds a line to the schedule's log.
func (s *sim) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 2*maxLines {
		s.lines = append(s.lines[:0], s.lines[maxLines:]...)
	}
	s.lines = append(s.lines, fmt.Sprintf("%10.4f %s", s.now().Seconds(), line))
}

// logger is a run's log: lines of the schedule's.
func (s *sim) logger(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(&lineWriter{s, name}, &slog.HandlerOptions{Level: logLevel,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
}

// logLevel is that of the nodes' logs.
var logLevel = func() slog.Level {
	if os.Getenv("SIM_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}()

type lineWriter struct {
	s    *sim
	name string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.s.note(w.name + " " + strings.TrimSpace(string(p)))
	return len(p), nil
}
