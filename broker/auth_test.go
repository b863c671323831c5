package broker

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"
)

func guestHash(t testing.TB) string { return hashOf(t, "guest") }

// hashOf is RabbitMQ's form of a password, which takes no time.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	salt := []byte("salt")
	sum := sha256.Sum256(append(salt[:4:4], password...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...))
}
