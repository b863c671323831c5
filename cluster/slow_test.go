package cluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// slowLeader is the leader's end of a follower's stream: it grants each lease some time after it was asked for.
type slowLeader struct {
	grpc.ClientStream
	f     *follower
	after time.Duration
}

func (s slowLeader) Send(q *nodev1.FollowRequest) error {
	if q.Ping != 0 {
		time.AfterFunc(s.after, func() { s.f.granted(&nodev1.FollowResponse{Ping: q.Ping, Index: s.f.c.catalog.at()}) })
	}
	return nil
}

func (s slowLeader) Recv() (*nodev1.FollowResponse, error) { select {} }

// TestLeasesFromASlowLeader: a lease counts from when it was asked for, also when the answer takes longer than the pause
// between two pings, as it does while the disks are busy.
func TestLeasesFromASlowLeader(t *testing.T) {
	for _, after := range []time.Duration{0, leasePause / 2, leasePause + time.Millisecond, 2*leasePause + time.Millisecond, leaseTime - leasePause - time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f := newFollower(bareLeases(t).c)
			f.c.catalog.group = &group{} // that knows no leader
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go f.tell(ctx, slowLeader{f: f, after: after})
			time.Sleep(after + time.Millisecond)
			for range 100 {
				if f.fresh() != nil {
					t.Fatalf("answers come after %v: the copy is not fresh", after)
				}
				time.Sleep(leasePause / 3)
			}
			cancel()
			time.Sleep(after)
			synctest.Wait()
			time.Sleep(leaseTime)
			if f.fresh() == nil {
				t.Errorf("answers came after %v: the copy is fresh without a lease", after)
			}
		})
	}
}
