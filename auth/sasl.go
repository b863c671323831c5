package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// maxUser is the longest name of a user, in bytes.
const maxUser = 255

// ParsePlain reads a response of the mechanism PLAIN (RFC 4616): authzid NUL user NUL password. Acting for another user
// is refused: authzid must be empty or the user.
func ParsePlain(response []byte) (user, password string, err error) {
	parts := strings.Split(string(response), "\x00")
	if len(parts) != 3 {
		return "", "", fmt.Errorf("PLAIN response of %d bytes has %d parts instead of 3", len(response), len(parts))
	}
	authorize, user, password := parts[0], parts[1], parts[2]
	if authorize != "" && authorize != user {
		return "", "", errors.New("PLAIN response: one user cannot act for another")
	}
	return checked("PLAIN", user, password)
}

// ParseAMQPlain reads a response of the mechanism AMQPLAIN: a field table, decoded, with LOGIN and PASSWORD.
func ParseAMQPlain(table map[string]any) (user, password string, err error) {
	user, hasUser := table["LOGIN"].(string)
	password, hasPassword := table["PASSWORD"].(string)
	if !hasUser || !hasPassword {
		return "", "", errors.New("AMQPLAIN response is missing LOGIN or PASSWORD field")
	}
	return checked("AMQPLAIN", user, password)
}

// CertificateUser is the user whom a client's verified certificate names: the common name of its subject. It answers the
// mechanism EXTERNAL.
func CertificateUser(c *x509.Certificate) (string, error) {
	user, _, err := checked("EXTERNAL", c.Subject.CommonName, "")
	return user, err
}

func checked(mechanism, user, password string) (string, string, error) {
	switch {
	case user == "":
		return "", "", fmt.Errorf("%s response: no user", mechanism)
	case len(user) > maxUser:
		return "", "", fmt.Errorf("%s response: a user name of %d bytes is longer than %d", mechanism, len(user), maxUser)
	case len(password) > maxPassword:
		return "", "", fmt.Errorf("%s response: a password of %d bytes is longer than %d", mechanism, len(password), maxPassword)
	}
	return user, password, nil
}
