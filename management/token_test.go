package management

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestCredentials(t *testing.T) {
	for _, c := range []struct{ header, user, password string }{
		{"Basic dXNlcjpzZWNyZXQ=", "user", "secret"},
		{"Bearer a.b.c", "", "a.b.c"},
		{"bearer a.b.c", "", "a.b.c"},
		{"Basic OmEuYi5j", "none", ""}, // an empty user does not make a password a token
		{"Bearer ", "none", ""},
		{"", "none", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		user, password := "none", ""
		err := permit(func(_ context.Context, u, p string, _ bool) ([]string, error) {
			user, password = u, p
			return []string{"administrator"}, nil
		}, false, r)
		if user != c.user || password != c.password || errors.Is(err, errNoLogin) != (c.user == "none") {
			t.Errorf("%q: %q, %q, %v", c.header, user, password, err)
		}
	}
}
