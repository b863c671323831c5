package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

// Rounds are another kind of run: the same fault many times over, each on the node that leads the shard of a queue that is
// published to at that moment, with all clients on a node that nothing touches. They measure how long such clients wait.

// Round is one kill or one cut.
type Round struct {
	Fault        string
	Victim       int      // the node that led
	Led          []string // the shards of the queues that are published to, of those it led
	Next         []string // who leads them afterwards
	Failover     time.Duration
	Return       time.Duration // the longest gap after the node was started or connected again
	CaughtUp     time.Duration // from then until it had everything
	TimerLate    time.Duration // what the machine itself did meanwhile
	SlowestFsync time.Duration
	Wrong        string `json:",omitempty"` // why the fault did not hit the leader
}

// rounds is the name of the workload that rounds have, alone.
const rounds = "rounds"

const (
	roundQueues = 4                // as many as can be had whose leaders the fault may touch
	killHold    = 3 * time.Second  // a killed node stays away: longer than any failover should take
	cutHold     = 10 * time.Second // the same for a silent partition, which the timeouts must notice
	roundPause  = time.Second      // of steady load before each fault
	findWithin  = 3 * time.Minute  // until a node that may be touched leads again
)

// roundQueue is a queue that is published to and the shard it is in.
type roundQueue struct{ name, shard string }

// inRounds says whether the run is one of rounds.
func (o *Options) inRounds() bool { return o.Kills > 0 || o.Cuts > 0 }

// prepareRounds declares queues in different shards that the clients' node does not lead, and makes a publisher with confirms
// and a consumer for each.
func (r *run) prepareRounds(ctx context.Context, l *link) error {
	// A node puts a new queue into a shard that it leads itself, if it can: so other nodes are asked to declare them.
	var others []*link
	for i := 1; i < r.o.Nodes; i++ {
		other, err := r.open((r.o.stableNode() + i) % r.o.Nodes)
		if err != nil {
			return err
		}
		defer other.close()
		defer other.bound(2 * patience)()
		if err := other.ch.Confirm(false); err != nil {
			return err
		}
		others = append(others, other)
	}
	for i := 0; len(r.roundQueues) < roundQueues && i < 10*roundQueues; i++ {
		name := fmt.Sprintf("round-%d", i)
		shard, err := r.tryQueue(ctx, others[i%len(others)], name)
		if err != nil {
			return err
		}
		if shard != "" {
			r.roundQueues = append(r.roundQueues, roundQueue{name, shard})
			continue
		}
		if _, err := others[0].ch.QueueDelete(name, false, false, false); err != nil {
			return err
		}
	}
	if len(r.roundQueues) == 0 {
		return errors.New("the clients' node leads every shard that a queue was put into")
	}
	r.say("queues and their shards: %v", r.roundQueues)
	for _, q := range r.roundQueues {
		queue, err := r.queue(l, q.name, true)
		if err != nil {
			return err
		}
		route, target := straight(queue)
		r.publish("publisher of "+q.name, float64(r.o.Rate)/float64(len(r.roundQueues)), route, target)
		r.consume("consumer of "+q.name, queue, 500, nil)
	}
	return nil
}

// tryQueue declares a queue and finds its shard: the one that moves when it is published to. Empty: it is of no use.
func (r *run) tryQueue(ctx context.Context, l *link, name string) (shard string, err error) {
	const messages = 40
	if _, err := l.ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
		return "", err
	}
	before, err := r.allStandings(ctx)
	if err != nil {
		return "", err
	}
	for range messages {
		confirm, err := l.ch.PublishWithDeferredConfirmWithContext(ctx, "", name, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent})
		if err != nil {
			return "", err
		}
		if ok, err := confirm.WaitContext(ctx); err != nil || !ok {
			return "", fmt.Errorf("publish to %s: not confirmed: %v", name, err)
		}
	}
	if _, err := l.ch.QueuePurge(name, false); err != nil {
		return "", err
	}
	after, err := r.allStandings(ctx)
	if err != nil {
		return "", err
	}
	earlier, moved := furthest(before), []string{}
	for id, index := range furthest(after) {
		if index-earlier[id] >= messages {
			moved = append(moved, id)
		}
	}
	if len(moved) != 1 || after[r.o.stableNode()].leads[moved[0]] ||
		slices.ContainsFunc(r.roundQueues, func(q roundQueue) bool { return q.shard == moved[0] }) {
		return "", nil
	}
	return moved[0], nil
}

// rounds does all rounds.
func (r *run) rounds(ctx context.Context, begin time.Duration, result *Result) {
	for i := range r.o.Kills + r.o.Cuts {
		round, hold := &Round{Fault: "kill"}, killHold
		if i >= r.o.Kills {
			round, hold = &Round{Fault: "cut"}, cutHold
		}
		r.waitUntil(ctx, r.now()+roundPause)
		if err := r.findLeader(ctx, round); err != nil {
			if ctx.Err() == nil {
				r.ledger.Report(check.Finding{Kind: check.NotReady, Detail: fmt.Sprintf("before round %d: %v", i+1, err)})
			}
			return
		}
		a := &Action{Fault: round.Fault + "-queue-leader", At: r.now() - begin, Hold: hold, Victims: []int{round.Victim},
			Detail: "led shards " + strings.Join(round.Led, ", ")}
		result.Schedule = append(result.Schedule, a)
		r.windows.Open(a.Fault, round.Victim, r.now(), true)
		err := r.oneRound(ctx, round, a)
		r.windows.Close(a.Fault, round.Victim, r.now())
		result.Rounds = append(result.Rounds, round)
		if err != nil {
			if ctx.Err() == nil {
				r.ledger.Report(check.Finding{Kind: check.NotReady, Detail: fmt.Sprintf("round %d: %v", i+1, err)})
			}
			return
		}
		if round.Wrong != "" {
			r.ledger.Report(check.Finding{Kind: check.Missed, Detail: fmt.Sprintf("round %d: %s", i+1, round.Wrong)})
		}
		r.say("round %d: %s of node%d, which led %v; now %v; longest gap %v, after its return %v, caught up after %v (timers late by %v)", i+1, round.Fault,
			round.Victim+1, round.Led, round.Next, round.Failover.Round(time.Millisecond), round.Return.Round(time.Millisecond),
			round.CaughtUp.Round(time.Millisecond), round.TimerLate.Round(time.Millisecond))
	}
}

// findLeader waits until all replicas are up to date and a node that may be touched leads shards that are published to, and
// takes the one that leads most.
func (r *run) findLeader(ctx context.Context, round *Round) error {
	ctx, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	if err := errors.Join(r.waitReady(ctx), r.caughtUp(ctx)); err != nil {
		return err
	}
	for {
		if all, err := r.allStandings(ctx); err == nil {
			if round.Victim, round.Led = mostLed(all, r.roundQueues, r.o.stableNode()); len(round.Led) > 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("no node but the clients' leads a shard that is published to")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// mostLed finds the node, other than the spared one, that leads most of the queues' shards. Shards that two nodes claim do not
// count, and a time without a leader for all is not one for a round.
func mostLed(all []*standings, queues []roundQueue, spared int) (node int, shards []string) {
	led := map[int][]string{}
	for _, q := range queues {
		leaders := []int{}
		for i, s := range all {
			if s.leads[q.shard] {
				leaders = append(leaders, i)
			}
		}
		if len(leaders) != 1 {
			return 0, nil
		}
		led[leaders[0]] = append(led[leaders[0]], q.shard)
	}
	for _, i := range slices.Sorted(maps.Keys(led)) {
		if i != spared && len(led[i]) > len(shards) {
			node, shards = i, led[i]
		}
	}
	return node, shards
}

// oneRound does the harm, undoes it, and waits until the node has caught up.
func (r *run) oneRound(ctx context.Context, round *Round, a *Action) error {
	victim := r.cluster.nodes[round.Victim]
	at := time.Now()
	a.Injected = r.now()
	if round.Fault == "kill" {
		victim.kill()
	} else if err := isolated(ctx, r, a); err != nil {
		return errors.Join(err, r.cluster.network.Heal())
	}
	r.waitUntil(ctx, a.Injected+a.Hold)
	r.verifyHit(ctx, round, at)
	a.Healed = r.now()
	if round.Fault == "kill" {
		if err := victim.start(r.ended); err != nil {
			return err
		}
	} else if err := r.cluster.network.Heal(); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := errors.Join(r.waitReady(ready), r.caughtUp(ready)); err != nil {
		return err
	}
	round.CaughtUp = r.now() - a.Healed
	r.waitUntil(ctx, r.now()+roundPause)
	a.Recovered = r.now()
	r.series.expectAll()
	round.Failover, round.Return = r.series.longestGap(a.Injected, a.Healed, a.Recovered), r.series.longestGap(a.Healed, a.Recovered, a.Recovered) // so far
	round.TimerLate, round.SlowestFsync = r.machine.worst(a.Injected, a.Recovered)
	a.TimerLate, a.SlowestFsync = round.TimerLate, round.SlowestFsync
	return nil
}

// verifyHit looks whether the fault hit the leader: nobody had taken the lead after the victim when the fault came, and others
// lead now.
func (r *run) verifyHit(ctx context.Context, round *Round, at time.Time) {
	for _, shard := range round.Led {
		newest, who := time.Time{}, -1
		for _, n := range r.cluster.nodes {
			if t := n.led("shard-"+shard, at); t.After(newest) {
				newest, who = t, n.index
			}
		}
		if who != round.Victim {
			round.Wrong = fmt.Sprintf("the last to lead shard %s before the fault was node%d", shard, who+1)
		}
		next := "nobody"
		for _, n := range r.cluster.nodes {
			if s, err := n.standings(ctx); err == nil && n.index != round.Victim && s.leads[shard] {
				next = n.name
			}
		}
		round.Next = append(round.Next, next)
	}
}

// spread is the distribution of some durations.
type spread struct{ median, p99, worst time.Duration }

func spreadOf(list []time.Duration) spread {
	if len(list) == 0 {
		return spread{}
	}
	list = slices.Sorted(slices.Values(list))
	at := func(share float64) time.Duration { return list[int(math.Ceil(share*float64(len(list))))-1] }
	return spread{at(0.5), at(0.99), at(1)}
}

func (s spread) String() string {
	return fmt.Sprintf("median %v, p99 %v, worst %v", round(s.median), round(s.p99), round(s.worst))
}

// Gaps describes how long clients waited for a confirm, for each kind of fault.
func (r *Result) Gaps() string {
	text := ""
	for _, kind := range []string{"kill", "cut"} {
		var failover, back []time.Duration
		for _, round := range r.Rounds {
			if round.Fault == kind {
				failover, back = append(failover, round.Failover), append(back, round.Return)
			}
		}
		if len(failover) > 0 {
			text += fmt.Sprintf("%d × %s of the leader: longest gap between two confirms: %v; after the node's return: %v\n", len(failover), kind,
				spreadOf(failover), spreadOf(back))
		}
	}
	return text
}
