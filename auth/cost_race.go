//go:build race

package auth

// cost is bcrypt's in binaries with the race detector, which are for tests: a hash takes ten times as long there, and on a
// busy machine that was longer than the time for a handshake.
const cost = 6
