package auth

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func tokens(t *testing.T, keys ...string) *Tokens {
	t.Helper()
	text := "# keys\n\n"
	for _, k := range keys {
		text += base64.StdEncoding.EncodeToString([]byte(strings.Repeat(k, tokenKeySize))) + "\n"
	}
	all, err := ParseTokenKeys([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTokens(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	old, rotated, other := tokens(t, "a"), tokens(t, "b", "a"), tokens(t, "c")
	token, err := old.Issue("orders", now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(method jwt.SigningMethod, key any, c jwt.RegisteredClaims) string {
		text, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	key := []byte(strings.Repeat("a", tokenKeySize))
	good := jwt.RegisteredClaims{Subject: "u", Audience: jwt.ClaimStrings{audience}, ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour))}
	without := func(change func(*jwt.RegisteredClaims)) jwt.RegisteredClaims {
		c := good
		change(&c)
		return c
	}
	parts := strings.Split(token, ".")
	for name, c := range map[string]struct {
		keys  *Tokens
		token string
		now   time.Time
		want  string // empty: refused
	}{
		"good":               {old, token, now, "orders"},
		"other key rotated":  {rotated, token, now, "orders"},
		"clock a bit behind": {old, token, now.Add(-leeway), "orders"},
		"expired":            {old, token, now.Add(time.Hour + leeway + time.Second), ""},
		"of the future":      {old, token, now.Add(-time.Hour), ""},
		"another key":        {other, token, now, ""},
		"another user":       {old, parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"guest","aud":["warren"],"exp":9999999999}`)) + "." + parts[2], now, ""},
		"no signature":       {old, sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), now, ""},
		"another method":     {old, sign(jwt.SigningMethodHS512, key, good), now, ""},
		"same method":        {old, sign(jwt.SigningMethodHS256, key, good), now, "u"},
		"no expiry":          {old, sign(jwt.SigningMethodHS256, key, without(func(c *jwt.RegisteredClaims) { c.ExpiresAt = nil })), now, ""},
		"another audience":   {old, sign(jwt.SigningMethodHS256, key, without(func(c *jwt.RegisteredClaims) { c.Audience = jwt.ClaimStrings{"x"} })), now, ""},
		"no user":            {old, sign(jwt.SigningMethodHS256, key, without(func(c *jwt.RegisteredClaims) { c.Subject = "" })), now, ""},
		"nothing":            {old, "", now, ""},
		"no token":           {old, "a.b.c", now, ""},
	} {
		user, err := c.keys.User(c.token, c.now)
		if user != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%s: %q, %v", name, user, err)
		}
	}
	for _, wrong := range []string{"", "# nothing\n", "!", base64.StdEncoding.EncodeToString([]byte("short"))} {
		if _, err := ParseTokenKeys([]byte(wrong)); err == nil {
			t.Errorf("keys %q were taken", wrong)
		}
	}
	if _, err := old.Issue("", now, now.Add(1)); err == nil {
		t.Error("a token for nobody")
	}
	if _, err := old.Issue("u", now, now); err == nil {
		t.Error("a token for no time")
	}
}

func TestKeysAreReplaced(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	keys := tokens(t, "a")
	old, err := keys.Issue("u", now.Add(-2*time.Hour), now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(text string, changes, fails bool) {
		t.Helper()
		if changed, err := keys.Replace([]byte(text)); changed != changes || (err != nil) != fails {
			t.Errorf("%q: changed %v, %v", text, changed, err)
		}
	}
	line := func(key string) string {
		return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(key, tokenKeySize))) + "\n"
	}
	replace("# the same\n"+line("a"), false, false)
	replace(line("a")[:10], false, true)
	replace(line("b")+line("a"), true, false)
	if !keys.Signed(old) {
		t.Error("a token of a key that is still there: not signed, because it has expired")
	}
	replace(line("b"), true, false)
	if keys.Signed(old) {
		t.Error("a token of a key that is gone counts as signed")
	}
	token, err := keys.Issue("u", now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if user, err := keys.User(token, now); user != "u" || err != nil {
		t.Errorf("a token of the new key: %q, %v", user, err)
	}
}
