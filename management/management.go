// Package management is the HTTP side of a node: whether it lives, whether it serves, and its metrics. What a node does
// is left to the packages that report; this one shows it.
package management

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options says what there is to show.
type Options struct {
	// Ready returns nil when the node serves: it has joined, its catalog is current, the shards it leads have a majority.
	Ready func() error
	// Metrics is what /metrics shows; nil: nothing.
	Metrics prometheus.Gatherer
	// Profiles serves the Go runtime's profiles. They tell much and cost CPU, so they are asked for.
	Profiles bool
	// Digests writes a line for each replica: its group, the index it is at and a checksum of its state. Two replicas of a
	// group at the same index must have the same. It costs as much as a snapshot of each, so it is served with Profiles only.
	Digests func(io.Writer) error
	// Cluster is what operators may ask of the nodes together, once Login has admitted them; nil: nothing.
	Cluster Cluster
	Login   Login
	Logger  *slog.Logger
}

// Server answers HTTP requests of operators and probes.
type Server struct {
	http http.Server
	log  *slog.Logger
}

// Most requests here have no bodies and small answers; these bounds end what does not behave. Backups have their own.
const (
	headerTimeout = 5 * time.Second
	totalTimeout  = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
)

// New prepares a server; Serve runs it.
func New(o Options) *Server {
	mux := http.NewServeMux()
	for _, r := range routes(o) {
		mux.Handle(r.method+" "+r.path, r.handler)
	}
	return &Server{log: o.Logger, http: http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: totalTimeout,
		WriteTimeout: totalTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)}}
}

type route struct {
	method, path string
	handler      http.Handler
}

func routes(o Options) []route {
	list := []route{
		{http.MethodGet, "/health/live", http.HandlerFunc(live)},
		{http.MethodGet, "/health/ready", ready(o.Ready)},
	}
	if o.Metrics != nil {
		list = append(list, route{http.MethodGet, "/metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{})})
	}
	if o.Profiles {
		list = append(list, route{http.MethodGet, "/debug/pprof/", http.HandlerFunc(pprof.Index)},
			route{http.MethodGet, "/debug/pprof/profile", http.HandlerFunc(pprof.Profile)},
			route{http.MethodGet, "/debug/pprof/trace", http.HandlerFunc(pprof.Trace)})
		if o.Digests != nil {
			list = append(list, route{http.MethodGet, "/debug/digests", digests(o.Digests)})
		}
	}
	if o.Cluster != nil {
		list = append(list, clusterRoutes(o.Cluster, o.Login)...)
		list = append(list, backupRoutes(o.Cluster, o.Login)...)
	}
	return list
}

// live answers as long as the process can.
func live(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "live") }

func ready(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, "ready")
	})
}

func digests(write func(io.Writer) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var text strings.Builder
		if err := write(&text); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, strings.TrimSuffix(text.String(), "\n"))
	})
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the asker may be gone; nobody else cares
}

// Serve answers on the listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops listening and waits for the answers under way, at most until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }
