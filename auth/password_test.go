package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// rabbitHash makes the form that RabbitMQ stores.
func rabbitHash(salt, password string) string {
	sum := sha256.Sum256([]byte(salt + password))
	return base64.StdEncoding.EncodeToString(append([]byte(salt), sum[:]...))
}

// free burns nothing.
func free() {}

func TestHashAndVerify(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, password := range []string{"guest", "a", long, "with\x00zero", "\xff\xfe"} {
		stored, err := hashAt(password, bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := hashAt(password, bcrypt.MinCost); again == stored {
			t.Error("two hashes of one password are the same")
		}
		if !strings.HasPrefix(stored, bcryptPrefix) {
			t.Errorf("%q does not name its algorithm", stored)
		}
		for _, other := range []string{"", "Guest", password + "x", password[:len(password)-1], "with\x00other"} {
			if verify(stored, other, free) {
				t.Errorf("%q passes for %q", other, password)
			}
		}
		if !verify(stored, password, free) {
			t.Errorf("%q does not pass", password)
		}
	}
}

func TestHashRefuses(t *testing.T) {
	if _, err := Hash(""); !errors.Is(err, ErrBlankPassword) {
		t.Errorf("blank: %v", err)
	}
	if _, err := Hash(strings.Repeat("x", maxPassword+1)); err == nil {
		t.Error("a password without bound is hashed")
	}
}

func TestHashCost(t *testing.T) {
	stored, err := Hash("guest")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := bcrypt.Cost([]byte(strings.TrimPrefix(stored, bcryptPrefix))); got != cost || err != nil {
		t.Errorf("cost %d, %v", got, err)
	}
	if !Verify(stored, "guest") || Verify(stored, "gast") {
		t.Error("Verify does not agree with Hash")
	}
}

func TestVerifyRabbitMQ(t *testing.T) {
	// The example in RabbitMQ's guide to passwords: salt 908DC60A, password test12.
	const documented = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
	for stored, password := range map[string]string{documented: "test12", rabbitHash("salt", "guest"): "guest"} {
		if !verify(stored, password, free) {
			t.Errorf("%q does not pass", password)
		}
		if verify(stored, password+"x", free) || verify(stored, "", free) {
			t.Error("another password passes")
		}
	}
	if verify(rabbitHash("salt", ""), "", free) {
		t.Error("a blank password passes")
	}
}

func TestVerifyUnusableForms(t *testing.T) {
	for _, stored := range []string{"", "guest", bcryptPrefix, bcryptPrefix + "guest", "bm90IDM2IGJ5dGVz", rabbitHash("toolongsalt", "guest")} {
		if verify(stored, "guest", free) {
			t.Errorf("%q lets a password pass", stored)
		}
	}
}

// TestRefusalsCostTheSame: every refusal pays for bcrypt, either by comparing or by burning.
func TestRefusalsCostTheSame(t *testing.T) {
	stored, err := hashAt("guest", bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stored, password string
		ok               bool
		burned           int
	}{
		"right":                  {stored, "guest", true, 0},
		"wrong":                  {stored, "wrong", false, 0}, // has been compared
		"right, RabbitMQ's form": {rabbitHash("salt", "guest"), "guest", true, 0},
		"wrong, RabbitMQ's form": {rabbitHash("salt", "guest"), "wrong", false, 1},
		"unknown user":           {"", "guest", false, 1},
		"blank":                  {stored, "", false, 1},
		"damaged":                {bcryptPrefix + "x", "guest", false, 1},
		"too long":               {stored, strings.Repeat("x", maxPassword+1), false, 1},
	} {
		burned := 0
		if ok := verify(c.stored, c.password, func() { burned++ }); ok != c.ok || burned != c.burned {
			t.Errorf("%s: %v, burned %d times", name, ok, burned)
		}
	}
	start := time.Now()
	burn(cost)
	if took := time.Since(start); took < 5*time.Millisecond {
		t.Errorf("a refusal takes %v: that is no bcrypt of cost %d", took, cost)
	}
}

func TestVerifierRemembers(t *testing.T) {
	stored, err := hashAt("guest", bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(8, free)
	verify := func(user, stored, password string) bool {
		t.Helper()
		ok, err := v.Verify(t.Context(), user, stored, password)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if verify("u", stored, "wrong") || verify("u", "", "guest") || verify("u", stored, "") || len(v.recent) != 0 {
		t.Fatalf("%d failures are remembered", len(v.recent))
	}
	if !verify("u", stored, "guest") || len(v.recent) != 1 {
		t.Fatal("a success is not remembered")
	}
	// With no turn free, only what is remembered is answered.
	for range cap(v.turns) {
		v.turns <- struct{}{}
	}
	if !verify("u", stored, "guest") {
		t.Error("what is remembered is refused")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range [][3]string{{"u", stored, "wrong"}, {"v", stored, "guest"}, {"u", stored + "x", "guest"}, {"u", "", "guest"}} {
		if ok, err := v.Verify(over, c[0], c[1], c[2]); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("%q is answered from memory: %v, %v", c, ok, err)
		}
	}
}

func TestVerifierIsBounded(t *testing.T) {
	v := newVerifier(8, free)
	often := v.prove("often", "s", "p")
	v.remember(often)
	for i := range 100 {
		v.remember(v.prove(fmt.Sprint(i), "s", "p"))
		if n := len(v.recent) + len(v.older); n > 8 {
			t.Fatalf("%d successes are remembered", n)
		}
		if !v.remembers(often) {
			t.Fatal("what is used all the time is forgotten")
		}
	}
	if v.remembers(v.prove("0", "s", "p")) {
		t.Error("what is not used is not forgotten")
	}
}

func TestVerifierIsKeyed(t *testing.T) {
	a, b := NewVerifier(0), NewVerifier(0)
	if a.prove("u", "s", "p") == b.prove("u", "s", "p") {
		t.Error("two processes make the same proof")
	}
	if a.prove("u", "sp", "") == a.prove("u", "s", "p") {
		t.Error("parts run into one another")
	}
}

func TestVerifierConcurrently(t *testing.T) {
	stored, err := hashAt("guest", bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(4, free)
	var work sync.WaitGroup
	for i := range 50 {
		work.Go(func() {
			password := "guest"
			if i%5 == 0 {
				password = "wrong"
			}
			if ok, err := v.Verify(t.Context(), fmt.Sprint("user", i%3), stored, password); err != nil || ok != (i%5 != 0) {
				t.Errorf("%s: %v, %v", password, ok, err)
			}
		})
	}
	work.Wait()
}

func BenchmarkVerifier(b *testing.B) {
	stored, err := Hash("guest")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			if !Verify(stored, "guest") {
				b.Fatal("refused")
			}
		}
	})
	b.Run("remembered", func(b *testing.B) {
		v := NewVerifier(0)
		for b.Loop() {
			if ok, err := v.Verify(b.Context(), "guest", stored, "guest"); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}
