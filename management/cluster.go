package management

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/warrenmq/warren/broker"
)

// Cluster is what operators ask of the nodes together; any node answers for all. Refusals are *broker.Error.
type Cluster interface {
	// Overview tells how nodes, shards and replicas are: something to be encoded as JSON.
	Overview() (any, error)
	// Leave begins that a living node leaves, Remove that a dead one is removed, Stay calls it off. few accepts that fewer nodes
	// stay than a shard should have replicas.
	Leave(ctx context.Context, node string, few bool) error
	Remove(ctx context.Context, node string, few bool) error
	Stay(ctx context.Context, node string) error
	// Drain lets a node give its leaderships away, or (off) lead again; leads is how many groups it leads still.
	Drain(ctx context.Context, node string, off bool) (leads int, err error)
	Backups
}

// Login checks a user's password and returns the user's tags; an empty user: the password is a bearer token. loopback: the
// request comes from this machine.
type Login func(ctx context.Context, user, password string, loopback bool) (tags []string, err error)

// clusterRoutes are open to administrators; users tagged monitoring may look.
func clusterRoutes(c Cluster, login Login) []route {
	act := func(f func(r *http.Request, node string) (any, error)) http.Handler {
		return permitted(login, false, func(r *http.Request) (any, error) { return f(r, r.PathValue("node")) })
	}
	return []route{
		{http.MethodGet, "/api/warren/overview", permitted(login, true, func(*http.Request) (any, error) { return c.Overview() })},
		{http.MethodPost, "/api/warren/nodes/{node}/leave", act(func(r *http.Request, node string) (any, error) {
			return done, c.Leave(r.Context(), node, r.URL.Query().Has("few"))
		})},
		{http.MethodPost, "/api/warren/nodes/{node}/remove", act(func(r *http.Request, node string) (any, error) {
			return done, c.Remove(r.Context(), node, r.URL.Query().Has("few"))
		})},
		{http.MethodPost, "/api/warren/nodes/{node}/stay", act(func(r *http.Request, node string) (any, error) {
			return done, c.Stay(r.Context(), node)
		})},
		{http.MethodPost, "/api/warren/nodes/{node}/drain", act(func(r *http.Request, node string) (any, error) {
			leads, err := c.Drain(r.Context(), node, r.URL.Query().Has("off"))
			return map[string]int{"leads": leads}, err
		})},
	}
}

// done is the answer where there is nothing to tell.
var done = struct{}{}

// permitted answers a request in JSON if its user may ask.
func permitted(login Login, looks bool, f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := permit(login, looks, r); err != nil {
			refuse(w, err)
			return
		}
		value, err := f(r)
		if err != nil {
			refuse(w, err)
			return
		}
		writeJSON(w, http.StatusOK, value)
	})
}

var errNoLogin = errors.New("not authorised: name a user and a password, or show a token")

const bearer = "Bearer "

func permit(login Login, looks bool, r *http.Request) error {
	user, password, ok := r.BasicAuth()
	if header := r.Header.Get("Authorization"); !ok && len(header) > len(bearer) && strings.EqualFold(header[:len(bearer)], bearer) {
		user, password, ok = "", header[len(bearer):], true
	} else if !ok || user == "" {
		return errNoLogin
	}
	tags, err := login(r.Context(), user, password, fromLoopback(r))
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if tag == "administrator" || looks && tag == "monitoring" {
			return nil
		}
	}
	return &broker.Error{Kind: broker.NotAllowed, Text: fmt.Sprintf("user '%s' is no administrator", cmp.Or(user, "of the token"))}
}

func fromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// statuses are the HTTP statuses of refusals.
var statuses = map[broker.Kind]int{
	broker.NotFound: http.StatusNotFound, broker.AccessRefused: http.StatusUnauthorized, broker.NotAllowed: http.StatusForbidden,
	broker.PreconditionFailed: http.StatusConflict, broker.Unavailable: http.StatusServiceUnavailable,
}

// refuse answers with the reason, in the form of RabbitMQ's API.
func refuse(w http.ResponseWriter, err error) {
	status, reason := http.StatusInternalServerError, "internal error"
	var refusal *broker.Error
	switch {
	case errors.Is(err, errNoLogin):
		status, reason = http.StatusUnauthorized, err.Error()
	case errors.As(err, &refusal):
		reason = refusal.Text
		if s, ok := statuses[refusal.Kind]; ok {
			status = s
		}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="Warren"`)
	}
	writeJSON(w, status, map[string]string{"error": http.StatusText(status), "reason": reason})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":"Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the asker may be gone; nobody else cares
}
