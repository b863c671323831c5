//go:build !race

package auth

// cost is bcrypt's: about 50 ms of one core. The Verifier sees to it that a client that reconnects does not pay again.
const cost = 10
