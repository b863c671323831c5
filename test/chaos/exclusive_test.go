package chaos

import (
	"errors"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestAStrangersAnswer: an exclusive queue is locked to everybody else, on every node, from the moment that its declare was answered.
func TestAStrangersAnswer(t *testing.T) {
	told := func(code int, reason string) error { return &amqp.Error{Code: code, Reason: reason, Server: true} }
	for _, c := range []struct {
		name  string
		err   error
		right bool
	}{
		{"locked", told(amqp.ResourceLocked, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'"), true},
		{"open", nil, false},
		{"not there", told(amqp.NotFound, "NOT_FOUND - no queue 'q' in vhost '/'"), false},
		{"its node cannot be reached", told(amqp.NotFound, "NOT_FOUND - queue 'q' in vhost '/' cannot be reached"), true},
		{"another refusal", told(amqp.AccessRefused, "ACCESS_REFUSED"), false},
		{"an internal error", told(amqp.InternalError, "INTERNAL_ERROR"), false},
		{"the stranger's node ends", told(amqp.ConnectionForced, "CONNECTION_FORCED"), true},
		{"the connection is lost", amqp.ErrClosed, true},
		{"no answer", errors.New("timeout"), true},
	} {
		if wrong := strangersAnswer(c.err); (wrong == "") != c.right {
			t.Errorf("%s: %q", c.name, wrong)
		}
	}
}
