package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// What a run checks when the load is over.

// waitEmpty lets the consumers take what is left, messages without an answer among them.
func (r *run) waitEmpty(ctx context.Context) {
	for deadline := time.Now().Add(30 * time.Second); ctx.Err() == nil && time.Now().Before(deadline); {
		if left, err := r.ready(r.o.stableNode()); err == nil && left == "" {
			return
		}
		r.waitUntil(ctx, r.now()+100*time.Millisecond)
	}
}

// ready tells which queues have messages, as one node sees it.
func (r *run) ready(node int) (string, error) {
	l, err := r.open(node)
	if err != nil {
		return "", err
	}
	defer l.close()
	text := ""
	for _, q := range r.queues {
		release := l.bound(patience)
		state, err := l.ch.QueueDeclarePassive(q.Name(), true, false, false, false, nil)
		release()
		if err != nil {
			return "", fmt.Errorf("look at queue %s on node %d: %w", q.Name(), node+1, err)
		}
		if state.Messages > 0 {
			text += fmt.Sprintf("%s has %d messages; ", q.Name(), state.Messages)
		}
	}
	return text, nil
}

// checkDrained asks every node, now that all consumers are closed and everything unsettled would be back.
func (r *run) checkDrained() {
	for node := range r.cluster.nodes {
		left, err := r.ready(node)
		if err != nil {
			left = err.Error()
		}
		if left != "" {
			r.ledger.Report(check.Finding{Kind: check.NotDrained, Detail: fmt.Sprintf("node%d: %s", node+1, left)})
		}
	}
}

// removeQueues deletes what the run has declared, so that the nodes can come back to their baseline.
func (r *run) removeQueues() error {
	l, err := r.open(r.o.stableNode())
	if err != nil {
		return err
	}
	defer l.close()
	names := []string{rpcQueue}
	for _, q := range r.queues {
		names = append(names, q.Name())
	}
	for slot, last := range r.history.names {
		for i := range last + 1 {
			names = append(names, fmt.Sprintf("catalog-%d-%d", slot, i))
		}
	}
	for _, name := range names {
		release := l.bound(patience)
		_, err := l.ch.QueueDelete(name, false, false, false)
		release()
		if err != nil {
			return fmt.Errorf("delete queue %s: %w", name, err)
		}
	}
	return nil
}

func (r *run) usages(ctx context.Context) ([]usage, error) {
	var list []usage
	for _, n := range r.cluster.nodes {
		u, err := n.usage(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.name, err)
		}
		list = append(list, u)
	}
	return list, nil
}

// How much more than before the load a node may have at the end. Memory has caches of a fixed size.
const (
	moreMemory     = 96 << 20
	moreGoroutines = 40
	moreFiles      = 40
)

// checkResources waits until every node is back at its baseline, with a bound, and tells what each has.
func (r *run) checkResources(ctx context.Context, baseline []usage) []string {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	var list []string
	// Who leads has more to do, and others lead now: what the busiest took before, any may take afterwards.
	var most usage
	for _, u := range baseline {
		most = usage{max(most.Memory, u.Memory), max(most.Goroutines, u.Goroutines), max(most.Files, u.Files)}
	}
	for i, n := range r.cluster.nodes {
		u, err := r.comesBack(ctx, n, most)
		list = append(list, u.String())
		if err != nil {
			r.ledger.Report(check.Finding{Kind: check.Resource, Detail: fmt.Sprintf("%s before: %v (at most %v on any), after: %v (%v); open: %s", n.name, baseline[i], most, u, err, n.openFiles())})
		}
	}
	return list
}

func (r *run) comesBack(ctx context.Context, n *Node, before usage) (usage, error) {
	var last usage
	for {
		u, err := n.usage(context.WithoutCancel(ctx)) // has its own bound
		if err == nil {
			last = u
			switch {
			case u.Goroutines > before.Goroutines+moreGoroutines:
				err = errors.New("goroutines")
			case u.Files > before.Files+moreFiles:
				err = errors.New("files")
			case u.Memory > before.Memory+moreMemory:
				err = errors.New("memory")
			default:
				return u, nil
			}
		}
		select {
		case <-ctx.Done():
			return last, err
		case <-time.After(time.Second):
		}
	}
}

// checkLogs looks for what must never be in a log.
func (r *run) checkLogs() {
	for _, n := range r.cluster.nodes {
		for _, line := range n.badLines() {
			r.ledger.Report(check.Finding{Kind: check.LogLine, Detail: n.name + ": " + line})
		}
	}
}

// judge holds everything against the promises.
func (r *run) judge(result *Result) {
	r.history.mu.Lock()
	result.Catalog = check.Linearizable(r.history.ops, catalogWithin)
	r.history.mu.Unlock()
	for _, f := range result.Catalog.Findings {
		r.ledger.Report(f)
	}
	if result.Catalog.Undecidable() {
		r.ledger.Report(check.Finding{Kind: check.Catalog, Detail: fmt.Sprintf("%d of %d histories could not be decided on within %v each",
			result.Catalog.Undecided, result.Catalog.Queues, catalogWithin)})
	}
	result.measureGaps(r.series)
	r.judgeGaps(result)
	result.judgeReplays(r.ledger.Report)
	result.Notes = append(result.Notes, r.machine.judgeEnds(r.ledger.Report)...)
	result.Events = r.windows.All()
	if !r.o.Stable {
		r.series.judgeRefusals(result.Events, r.o.Nodes, r.ledger.Report)
	}
	result.Verdict = r.ledger.Judge(result.Events)
	result.Total = r.now()
	result.Errors, result.Refused = r.series.errors, len(r.series.refused)
	result.Replies = fmt.Sprintf("%d asked, %d answered, %d answers returned since their clients were gone", r.replies.asked, r.replies.arrives, r.replies.returns)
	sum := r.series.total()
	result.Latency = map[string]time.Duration{"p50": sum.quantile(0.5), "p99": sum.quantile(0.99), "p99.9": sum.quantile(0.999), "max": sum.quantile(1)}
	result.Series = r.series.points()
	if result.Failed() {
		result.Logs = map[string]string{}
		for _, n := range r.cluster.nodes {
			result.Logs[n.name] = n.logTail(60)
		}
	}
}

// judgeGaps looks at the pauses that clients of an untouched node saw.
func (r *run) judgeGaps(result *Result) {
	if !r.o.Stable || r.o.MaxGap == 0 {
		return
	}
	under := false
	for _, a := range result.Schedule {
		if a.LongestGap > r.o.MaxGap {
			under = true
			r.ledger.Report(check.Finding{Kind: check.Stalled, Detail: fmt.Sprintf("%v between two confirms under %v", a.LongestGap, a)})
		}
	}
	if !under && result.Gap > r.o.MaxGap {
		r.ledger.Report(check.Finding{Kind: check.Stalled, Detail: fmt.Sprintf("%v between two confirms under no fault", result.Gap)})
	}
}
