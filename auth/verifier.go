package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"
)

// Verifier checks passwords and remembers recent successes, so that many connections of one user cost one hash. It is
// safe for use by many goroutines.
type Verifier struct {
	key   []byte        // of this process: what is remembered is of no use outside
	burn  func()        // takes the time of one comparison
	turns chan struct{} // bounds how many cores hash passwords at once

	mu     sync.Mutex // guards what follows
	recent map[proof]struct{}
	older  map[proof]struct{}
	limit  int // of recent; when it is full it becomes older, and what was older is forgotten
}

// proof stands for a user, a stored password and a password that matched it.
type proof [sha256.Size]byte

// defaultRemembered is how many successes a Verifier remembers unless told otherwise.
const defaultRemembered = 4096

// NewVerifier returns a Verifier that remembers up to so many successes; 0 means 4096.
func NewVerifier(remembered int) *Verifier {
	return newVerifier(remembered, func() { burn(cost) })
}

func newVerifier(remembered int, burn func()) *Verifier {
	if remembered <= 0 {
		remembered = defaultRemembered
	}
	return &Verifier{
		key:    randomKey(),
		burn:   burn,
		turns:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		recent: map[proof]struct{}{},
		limit:  max(1, remembered/2),
	}
}

// Verify tells whether the password is the one stored for the user. For a user that does not exist or has no password,
// stored is "", and the answer takes as long as for a wrong password. The error is ctx's: it ended while others' were
// being checked.
func (v *Verifier) Verify(ctx context.Context, user, stored, password string) (bool, error) {
	p := v.prove(user, stored, password)
	if v.remembers(p) {
		return true, nil
	}
	select {
	case v.turns <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-v.turns }()
	// Another connection of the same user may have been first.
	if v.remembers(p) {
		return true, nil
	}
	if !verify(stored, password, v.burn) {
		return false, nil
	}
	v.remember(p)
	return true, nil
}

func (v *Verifier) prove(user, stored, password string) proof {
	mac := hmac.New(sha256.New, v.key)
	for _, part := range []string{user, stored, password} {
		var length [8]byte
		binary.LittleEndian.PutUint64(length[:], uint64(len(part)))
		mac.Write(length[:])
		mac.Write([]byte(part))
	}
	return proof(mac.Sum(nil))
}

func (v *Verifier) remembers(p proof) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.recent[p]; ok {
		return true
	}
	if _, ok := v.older[p]; !ok {
		return false
	}
	v.put(p)
	return true
}

func (v *Verifier) remember(p proof) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.put(p)
}

func (v *Verifier) put(p proof) {
	if len(v.recent) >= v.limit {
		v.recent, v.older = map[proof]struct{}{}, v.recent
	}
	v.recent[p] = struct{}{}
}
