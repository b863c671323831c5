package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// A stored password is one of
//
//	bcrypt-sha256:$2a$10$…   bcrypt of base64(SHA-256(password)), as Hash makes it
//	base64(salt ‖ SHA-256(salt ‖ password)), salt of 4 bytes: RabbitMQ's form, for users that were imported
//
// bcrypt, because it costs an attacker time and the broker no memory: argon2's 20 MiB and more for each login would be
// unbounded when a thousand clients come back at once. SHA-256 goes first because bcrypt looks at 72 bytes only.
const bcryptPrefix = "bcrypt-sha256:"

// maxPassword bounds what is hashed, in bytes.
const maxPassword = 4096

// rabbitSalt is the length of the salt in RabbitMQ's form, in bytes.
const rabbitSalt = 4

// ErrBlankPassword refuses an empty password.
var ErrBlankPassword = errors.New("the password is blank")

// Hash returns the form in which a password is stored.
func Hash(password string) (string, error) { return hashAt(password, cost) }

func hashAt(password string, cost int) (string, error) {
	if password == "" {
		return "", ErrBlankPassword
	}
	if len(password) > maxPassword {
		return "", fmt.Errorf("the password has %d bytes; at most %d can be used", len(password), maxPassword)
	}
	hash, err := bcrypt.GenerateFromPassword(digest(password), cost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return bcryptPrefix + string(hash), nil
}

// digest makes a password of any length fit for bcrypt, without the zero bytes that would end it.
func digest(password string) []byte {
	sum := sha256.Sum256([]byte(password))
	return base64.StdEncoding.AppendEncode(nil, sum[:])
}

// Verify tells whether the password is the stored one. A stored form that is empty or unknown matches nothing, and a
// mismatch always costs at least what a mismatch of Hash's form costs, so that its time does not tell one reason from
// another. Servers use a Verifier.
func Verify(stored, password string) bool { return verify(stored, password, func() { burn(cost) }) }

// verify calls burn before it refuses without having paid for a comparison.
func verify(stored, password string, burn func()) bool {
	usable := password != "" && len(password) <= maxPassword
	if hash, ours := strings.CutPrefix(stored, bcryptPrefix); ours && usable {
		err := bcrypt.CompareHashAndPassword([]byte(hash), digest(password))
		if err == nil {
			return true
		}
		if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false
		}
	} else if usable && verifyRabbit(stored, password) {
		return true
	}
	burn()
	return false
}

// burn takes the time of one comparison.
func burn(cost int) {
	// Only the time matters. The error would be a bad cost or too long a password, and there is neither.
	_, _ = bcrypt.GenerateFromPassword(digest(""), cost)
}

// verifyRabbit checks RabbitMQ's form.
func verifyRabbit(stored, password string) bool {
	raw, err := base64.StdEncoding.DecodeString(stored)
	if err != nil || len(raw) != rabbitSalt+sha256.Size {
		return false
	}
	sum := sha256.Sum256(append(raw[:rabbitSalt:rabbitSalt], password...))
	return subtle.ConstantTimeCompare(sum[:], raw[rabbitSalt:]) == 1
}

// randomKey returns a key that nobody outside the process knows.
func randomKey() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return key
}
