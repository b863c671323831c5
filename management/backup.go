package management

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/warrenmq/warren/broker"
)

// Backups is what a client that keeps a backup, or has one to restore, asks of the cluster. Parts are of the format of package
// backup; one that breaks off is seen by whoever reads it, who asks for it again.
type Backups interface {
	// BackupCatalog writes the first part of a backup, BackupShard a shard.
	BackupCatalog(ctx context.Context, w io.Writer) error
	BackupShard(ctx context.Context, shard uint16, w io.Writer) error
	// Restore fills an empty cluster from a whole backup, and returns what is to be told as JSON.
	Restore(ctx context.Context, r io.Reader) (any, error)
}

const (
	// stallTimeout ends a stream whose other end neither takes nor gives anything for so long. Restoring may wait for the
	// cluster; this does not bound that.
	stallTimeout = 2 * time.Minute
	// maxBackups is how many parts may be on their way out of this node; each holds files that could otherwise go.
	maxBackups = 4
)

// backupRoutes are open to administrators: a backup has all messages, and the passwords' hashes.
func backupRoutes(b Backups, login Login) []route {
	backups, restores := make(chan struct{}, maxBackups), make(chan struct{}, 1)
	part := func(write func(r *http.Request, w io.Writer) error) http.Handler {
		return streaming(login, backups, func(w http.ResponseWriter, r *http.Request) { writePart(w, r, write) })
	}
	return []route{
		{http.MethodGet, "/api/warren/backup/catalog", part(func(r *http.Request, w io.Writer) error { return b.BackupCatalog(r.Context(), w) })},
		{http.MethodGet, "/api/warren/backup/shards/{shard}", part(func(r *http.Request, w io.Writer) error {
			shard, err := strconv.ParseUint(r.PathValue("shard"), 10, 15)
			if err != nil {
				return &broker.Error{Kind: broker.NotFound, Text: "'" + r.PathValue("shard") + "' is no shard"}
			}
			return b.BackupShard(r.Context(), uint16(shard), w)
		})},
		{http.MethodPost, "/api/warren/restore", streaming(login, restores, func(w http.ResponseWriter, r *http.Request) {
			c := http.NewResponseController(w)
			done, err := b.Restore(r.Context(), &patientReader{r.Body, c})
			_ = c.SetWriteDeadline(time.Now().Add(totalTimeout)) // a connection that has none has no deadline to miss
			if err != nil {
				refuse(w, err)
				return
			}
			writeJSON(w, http.StatusOK, done)
		})},
	}
}

// streaming admits an administrator's request that may last long, unless as many as there may be are under way.
func streaming(login Login, room chan struct{}, f http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := permit(login, false, r); err != nil {
			refuse(w, err)
			return
		}
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			refuse(w, &broker.Error{Kind: broker.Unavailable, Text: "others back up or restore through this node: try again later"})
			return
		}
		// The server's deadlines are for requests that are short. One that passes while nothing is read would end the context.
		c := http.NewResponseController(w)
		_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}) // as above
		f(w, r)
	})
}

// writePart answers with a part, or, while nothing of it is written, with a refusal; later an error breaks the answer off.
func writePart(w http.ResponseWriter, r *http.Request, write func(r *http.Request, w io.Writer) error) {
	out := &patientWriter{w: w, c: http.NewResponseController(w)}
	switch err := write(r, out); {
	case err == nil:
	case out.begun:
		panic(http.ErrAbortHandler)
	default:
		refuse(w, err)
	}
}

// patientWriter gives each write its own deadline.
type patientWriter struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	begun bool
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.w.Header().Set("Content-Type", "application/octet-stream")
	}
	_ = p.c.SetWriteDeadline(time.Now().Add(stallTimeout))
	return p.w.Write(b)
}

// patientReader gives each read its own deadline, and none to what comes after the end.
type patientReader struct {
	r io.Reader
	c *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.c.SetReadDeadline(time.Now().Add(stallTimeout))
	n, err := p.r.Read(b)
	_ = p.c.SetReadDeadline(time.Time{})
	if err != nil && !errors.Is(err, io.EOF) {
		err = &broker.Error{Kind: broker.Unavailable, Text: "the backup broke off on its way: " + err.Error()}
	}
	return n, err
}
