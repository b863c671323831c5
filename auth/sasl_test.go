package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
)

func TestParsePlain(t *testing.T) {
	for response, want := range map[string][2]string{
		"\x00guest\x00guest":       {"guest", "guest"},
		"guest\x00guest\x00secret": {"guest", "secret"},
		"\x00u\x00":                {"u", ""}, // refused later, as a blank password
		"\x00ü\x00\xff":            {"ü", "\xff"},
	} {
		user, password, err := ParsePlain([]byte(response))
		if err != nil || user != want[0] || password != want[1] {
			t.Errorf("%q: %q, %q, %v", response, user, password, err)
		}
	}
	long := strings.Repeat("x", maxUser+1)
	for _, response := range []string{"", "guest", "\x00guest", "guest\x00guest", "\x00\x00guest", "\x00u\x00p\x00", "\x00u\x00p\x00q",
		"other\x00guest\x00guest", "\x00" + long + "\x00p", "\x00u\x00" + strings.Repeat("x", maxPassword+1)} {
		if user, password, err := ParsePlain([]byte(response)); err == nil {
			t.Errorf("%.40q is read as %.20q, %.20q", response, user, password)
		}
	}
}

func TestParseAMQPlain(t *testing.T) {
	user, password, err := ParseAMQPlain(map[string]any{"LOGIN": "guest", "PASSWORD": "secret", "OTHER": 1})
	if err != nil || user != "guest" || password != "secret" {
		t.Errorf("%q, %q, %v", user, password, err)
	}
	for _, table := range []map[string]any{nil, {"LOGIN": "u"}, {"PASSWORD": "p"}, {"LOGIN": 1, "PASSWORD": "p"},
		{"LOGIN": "u", "PASSWORD": []byte("p")}, {"LOGIN": "", "PASSWORD": "p"}, {"login": "u", "password": "p"}} {
		if _, _, err := ParseAMQPlain(table); err == nil {
			t.Errorf("%v is accepted", table)
		}
	}
}

func TestMayConnect(t *testing.T) {
	if MayConnect("guest", false) || !MayConnect("guest", true) || !MayConnect("admin", false) {
		t.Error("guest may come from this machine alone, others from everywhere")
	}
}

func FuzzParsePlain(f *testing.F) {
	f.Add([]byte("\x00guest\x00guest"))
	f.Add([]byte("guest\x00guest\x00secret"))
	f.Fuzz(func(t *testing.T, response []byte) {
		user, password, err := ParsePlain(response)
		if err != nil {
			return
		}
		if user == "" || strings.Contains(user+password, "\x00") {
			t.Fatalf("%q, %q", user, password)
		}
		short, whole := "\x00"+user+"\x00"+password, user+"\x00"+user+"\x00"+password
		if string(response) != short && string(response) != whole {
			t.Fatalf("%q is read as %q, %q", response, user, password)
		}
	})
}

func TestCertificateUser(t *testing.T) {
	for name, want := range map[string]string{"orders": "orders", "": "", strings.Repeat("x", maxUser+1): ""} {
		got, err := CertificateUser(&x509.Certificate{Subject: pkix.Name{CommonName: name}})
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %q, %v", name, got, err)
		}
	}
}
