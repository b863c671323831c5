package pipe

import "testing"

// TestTimeOfAMachineThatIsAhead: after a leader whose clock was ahead the time of the entries does not stand still until the next
// one's has caught up, and comes back to it; it never runs backwards, whatever the clock does.
func TestTimeOfAMachineThatIsAhead(t *testing.T) {
	const hour = 60 * 60 * 1000
	now := int64(1000 * hour)
	p := &proposer{now: func() int64 { return now }}
	p.lead(1, now+hour)
	if ahead := p.time() - now; ahead != hour {
		t.Fatalf("it begins %d ms ahead", ahead)
	}
	// In steps of any size an hour lasts 15/16 of one, so a sixteenth of the way back is made.
	for _, step := range []int64{1, 7, 1000, hour / 10} {
		before, ahead := p.time(), p.time()-now
		for range hour / step {
			was := p.time()
			if now += step; p.time() < was {
				t.Fatalf("it runs backwards: %d after %d", p.time(), was)
			}
		}
		passed, less := p.time()-before, ahead-(p.time()-now)
		if want := int64(hour / catchUp); less < want-catchUp || less > want+catchUp || passed != hour/step*step-less {
			t.Errorf("steps of %d ms: %d ms passed in an hour, %d ms were made up", step, passed, less)
		}
	}
	now += 12*hour + catchUp
	if p.time() != now {
		t.Errorf("it is %d ms ahead after 16 hours", p.time()-now)
	}
	for _, step := range []int64{-2 * hour, 50, 10 * hour, -1, 1} {
		was := p.time()
		if now += step; p.time() < was {
			t.Errorf("a step of %d: it runs backwards", step)
		}
	}
	// Leaders in between have gone on with it.
	if err := p.applied(0, now+3*hour); err != nil {
		t.Fatal(err)
	}
	p.lead(3, 0)
	if ahead := p.time() - now; ahead != 3*hour {
		t.Errorf("it leads again and is %d ms ahead", ahead)
	}
}
