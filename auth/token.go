package auth

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A bearer token stands for a user until it expires: a JSON Web Token (RFC 7519), signed with HMAC-SHA-256 under a key that
// all nodes have. It says who the user is and nothing of what he may do, which is looked up as after any login.

// Tokens makes and checks tokens.
type Tokens struct {
	keys [][]byte // the first signs, all verify
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
		t.keys = append(t.keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(t.keys) == 0 {
		return nil, errors.New("no key")
	}
	return t, nil
}

// Issue makes a token for a user. Whether there is such a user shows when it is used.
func (t *Tokens) Issue(user string, now, expires time.Time) (string, error) {
	if user == "" || !expires.After(now) {
		return "", errors.New("a token needs a user and a time to live")
	}
	claims := jwt.RegisteredClaims{Subject: user, Audience: jwt.ClaimStrings{audience}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires)}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(t.keys[0])
}

// User returns whom a token stands for at a time.
func (t *Tokens) User(token string, now time.Time) (string, error) {
	keys := jwt.VerificationKeySet{}
	for _, k := range t.keys {
		keys.Keys = append(keys.Keys, k)
	}
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return keys, nil }, jwt.WithValidMethods([]string{tokenMethod}),
		jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(func() time.Time { return now }))
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	case claims.Subject == "":
		return "", fmt.Errorf("%w: it names no user", ErrToken)
	}
	return claims.Subject, nil
}
