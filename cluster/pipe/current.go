package pipe

import "context"

// Current waits until the state holds everything that was committed when it was called. The error is ErrNotLeader, ctx's or
// VerifyRead's.
func (h *Host) Current(ctx context.Context) error { return h.current(ctx) }
