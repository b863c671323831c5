package cluster

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/cluster/pipe"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// slowClock is a node whose clock is ahead, and which takes some time to be asked and some to answer.
type slowClock struct {
	nodev1.ControlClient
	ahead, there, back time.Duration
	old                bool        // its program knows no such question
	worse              atomic.Bool // its clock has been set and its answers take too long
}

func (s *slowClock) Clock(ctx context.Context, _ *nodev1.ClockRequest, _ ...grpc.CallOption) (*nodev1.ClockResponse, error) {
	if s.old {
		return nil, status.Error(codes.Unimplemented, "")
	}
	time.Sleep(s.there)
	ahead, back := s.ahead, s.back
	if s.worse.Load() {
		ahead, back = time.Hour, 501*time.Millisecond
	}
	shown := time.Now().Add(ahead)
	time.Sleep(back)
	return &nodev1.ClockResponse{Uuid: "b", UnixNanos: shown.UnixNano()}, nil // too late or not: this process may have been stopped
}

// TestMeasuring: a slow answer is as unsure as it was slow; one that is slower than that is none, nor is one from long ago.
func TestMeasuring(t *testing.T) {
	const ms = time.Millisecond
	measured := func(s *slowClock, f func(k *clocks)) {
		synctest.Test(t, func(t *testing.T) {
			c := &Cluster{identity: identity{UUID: "a"}, log: slog.New(slog.DiscardHandler), o: Options{MaxClockSkew: 5 * time.Second}}
			c.o.Surroundings.setDefaults()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.watcher, c.clocks = newWatcher(ctx, c), newClocks(c)
			c.watcher.peers["b"] = &peerInfo{state: pipe.PeerAlive}
			time.Sleep(ms)
			go c.clocks.measure(ctx, "b", s)
			time.Sleep(5*clockPeriod + 999*ms)
			f(c.clocks)
			cancel()
			synctest.Wait()
			time.Sleep(time.Minute)
		})
	}
	for _, s := range []*slowClock{{}, {ahead: time.Hour}, {ahead: -time.Hour, there: 490 * ms}, {ahead: time.Second, back: 490 * ms}, {there: 250 * ms, back: 200 * ms}} {
		measured(s, func(k *clocks) {
			own, other := k.view().Clocks["a"], k.view().Clocks["b"]
			wide := other.High - other.Low
			if low, high := other.Low-own.High, other.High-own.Low; low > s.ahead || high < s.ahead || wide != s.there+s.back {
				t.Errorf("%+v: between %v and %v ahead", s, low, high)
			}
		})
	}
	for _, s := range []*slowClock{{there: 501 * ms}, {back: 10 * time.Second}, {old: true}} {
		measured(s, func(k *clocks) {
			if v := k.view(); len(v.Clocks) != 1 || v.Nodes != 2 {
				t.Errorf("%+v: %+v", s, v)
			}
		})
	}
	slow := &slowClock{}
	measured(slow, func(k *clocks) {
		slow.worse.Store(true)
		time.Sleep(3 * clockPeriod)
		if v := k.view(); !v.Right("b") {
			t.Errorf("slow answers take the place of good ones: %+v", v)
		}
		time.Sleep(maxClockAge)
		if v := k.view(); len(v.Clocks) != 1 || v.Nodes != 2 {
			t.Errorf("an old measurement counts: %+v", v)
		}
	})
}

// TestEntryTime: entries do not follow a wall clock that jumps, unless others agree with it.
func TestEntryTime(t *testing.T) {
	const minute = time.Minute
	for _, tc := range []struct {
		name        string
		own         time.Duration // this node's clock jumps by so much
		others      []time.Duration
		ahead       time.Duration // the entries' time afterwards
		goesByOwn   bool
		laterWithin time.Duration // how far it may be from there ten minutes later
	}{
		{"alone", time.Hour, nil, 0, true, minute},
		{"alone, back", -time.Hour, nil, 0, true, minute},
		{"it is wrong", time.Hour, []time.Duration{0, 0}, 0, false, 0},
		{"the others were wrong before", time.Hour, []time.Duration{time.Hour, time.Hour}, time.Hour, true, 0},
		{"one against one", time.Hour, []time.Duration{0}, 0, true, minute},
		{"it has begun with a wrong clock", 0, []time.Duration{-time.Hour, -time.Hour}, -time.Hour, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			jump := time.Duration(0)
			c := &Cluster{identity: identity{UUID: "a"}, log: slog.New(slog.DiscardHandler), o: Options{MaxClockSkew: 5 * time.Second}}
			c.o.Surroundings.Now = func() time.Time { return time.Now().Add(jump) }
			c.watcher, c.clocks = newWatcher(t.Context(), c), newClocks(c)
			k := c.clocks
			jump = tc.own
			look := func() time.Duration {
				v := k.view()
				for i, ahead := range tc.others {
					r := k.own()
					r.Low, r.High = r.Low+ahead-jump, r.High+ahead-jump
					v.Nodes++
					v.Clocks[string(rune('b'+i))] = r
				}
				k.refer(v)
				return time.Until(k.entryTime())
			}
			if ahead := look(); ahead != tc.ahead {
				t.Errorf("%s: entries are %v ahead", tc.name, ahead)
			}
			time.Sleep(10 * minute)
			if ahead := look(); max(ahead-tc.ahead, tc.ahead-ahead) > tc.laterWithin {
				t.Errorf("%s: entries are %v ahead ten minutes later", tc.name, ahead)
			}
			if (k.follows == 0) != tc.goesByOwn {
				t.Errorf("%s: it goes by its own clock: %v", tc.name, k.follows == 0)
			}
		})
	}
}
