package auth

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A bearer token stands for a user until it expires: a JSON Web Token (RFC 7519), signed with HMAC-SHA-256 under a key that
// all nodes have. It says who the user is and nothing of what he may do, which is looked up as after any login.

// Tokens makes and checks tokens. It is safe for use by many goroutines.
type Tokens struct {
	keys atomic.Pointer[[][]byte] // what it points to does not change: the first signs, all verify
}

const (
	// tokenKeySize is the least length of a key, in bytes: that of the hash.
	tokenKeySize = 32
	tokenMethod  = "HS256"
	audience     = "warren"
	// leeway is how far the clocks of those who make and those who check tokens may be apart.
	leeway = 30 * time.Second
)

// ErrToken refuses a token; what is wrapped says why, which is for the log.
var ErrToken = errors.New("token refused")

// ParseTokenKeys reads a file of keys, one a line in base64; empty lines and those that begin with # do not count.
func ParseTokenKeys(data []byte) (*Tokens, error) {
	t := &Tokens{}
	if _, err := t.Replace(data); err != nil {
		return nil, err
	}
	return t, nil
}

// Replace takes the keys of a file, as ParseTokenKeys reads it, instead of those that there are, and tells whether they are
// others. Keys that cannot be read change nothing.
func (t *Tokens) Replace(data []byte) (changed bool, err error) {
	keys, err := parseKeys(data)
	if err != nil {
		return false, err
	}
	old := t.keys.Swap(&keys)
	return old == nil || !slices.EqualFunc(*old, keys, bytes.Equal), nil
}

func parseKeys(data []byte) (keys [][]byte, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("line %d is not base64", n)
		}
		if len(key) < tokenKeySize {
			return nil, fmt.Errorf("the key in line %d has %d bytes, fewer than %d", n, len(key), tokenKeySize)
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("no key")
	}
	return keys, nil
}

// Issue makes a token for a user. Whether there is such a user shows when it is used.
func (t *Tokens) Issue(user string, now, expires time.Time) (string, error) {
	if user == "" || !expires.After(now) {
		return "", errors.New("a token needs a user and a time to live")
	}
	claims := jwt.RegisteredClaims{Subject: user, Audience: jwt.ClaimStrings{audience}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires)}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString((*t.keys.Load())[0])
}

// verifying gives the keys to the library.
func (t *Tokens) verifying(*jwt.Token) (any, error) {
	keys := jwt.VerificationKeySet{}
	for _, k := range *t.keys.Load() {
		keys.Keys = append(keys.Keys, k)
	}
	return keys, nil
}

// Signed tells whether one of the keys that there are now has signed a token, be it expired or not.
func (t *Tokens) Signed(token string) bool {
	_, err := jwt.Parse(token, t.verifying, jwt.WithValidMethods([]string{tokenMethod}), jwt.WithoutClaimsValidation())
	return err == nil
}

// User returns whom a token stands for at a time.
func (t *Tokens) User(token string, now time.Time) (string, error) {
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, t.verifying, jwt.WithValidMethods([]string{tokenMethod}),
		jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(func() time.Time { return now }))
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	case claims.Subject == "":
		return "", fmt.Errorf("%w: it names no user", ErrToken)
	}
	return claims.Subject, nil
}
