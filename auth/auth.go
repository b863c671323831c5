// Package auth checks passwords, matches names against permissions, and reads the SASL responses of clients. It is pure
// of users: what a user's stored password and patterns are comes from its caller, and so does what is done on refusal.
package auth

// DefaultUser may connect from the broker's own machine alone.
const DefaultUser = "guest"

// MayConnect tells whether the user may log in from where the client is. loopback tells that it is on this machine.
func MayConnect(user string, loopback bool) bool { return loopback || user != DefaultUser }
