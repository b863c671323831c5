package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/backup"
)

// A backup comes in parts, the catalog and then each shard, over HTTP. A part that breaks off, because a leader or the connection
// was lost, is cut off in the file and asked for again.

const (
	// partTries is how often a part is asked for before the backup fails.
	partTries = 8
	// partPause is the pause after the first try; each is twice as long as the one before.
	partPause = 250 * time.Millisecond
	// stallTimeout ends a try that brings nothing for so long: a node's own patience, and more.
	stallTimeout = 3 * time.Minute
)

// summary is what a backup holds.
type summary struct {
	File      string    `json:"file"`
	Bytes     int64     `json:"bytes"`
	ClusterID string    `json:"cluster_id"`
	TakenAt   time.Time `json:"taken_at"`
	Version   string    `json:"version"`
	Shards    uint64    `json:"shards"`
	Queues    uint64    `json:"queues"`
	Messages  uint64    `json:"messages"` // each counted in every queue that has it
}

func summarize(file string, size int64, b *backup.Begin, e backup.End) summary {
	return summary{file, size, b.ClusterID, time.UnixMilli(b.TakenAtMillis).UTC(), b.Version, e.Shards, e.Queues, e.Places}
}

func (s summary) print(out io.Writer, asJSON bool, did string) error {
	if asJSON {
		return json.NewEncoder(out).Encode(s)
	}
	_, err := fmt.Fprintf(out, "%s %s: %d messages in %d queues of %d shards, %s, of cluster %s at %s\n", did, s.File, s.Messages, s.Queues, s.Shards,
		inBytes(uint64(s.Bytes)), s.ClusterID, s.TakenAt.Format(time.RFC3339))
	return err
}

func backupCommand() *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: "backup FILE", Short: "Write a backup of the whole cluster to a file.", Args: cobra.ExactArgs(1),
		Long: "Write vhosts, users, permissions, exchanges, bindings, queues and all their messages to a file, while the cluster runs.\n" +
			"Everything that was confirmed before the command began is in it, in order, unless it was consumed meanwhile. Exclusive\n" +
			"queues are left out. The file appears under its name when it is whole and on disk; it has messages and password hashes,\n" +
			"so only its owner may read it. Every octet is covered by a checksum: --verify reads a file and asks no cluster.",
		Example: "  warren backup warren-2026-11-25.backup\n  warren backup --server warren1:15672 --tls-ca ca.pem --user admin --password secret nightly.backup --overwrite\n" +
			"  warren backup --verify warren-2026-11-25.backup"}
	a.register(c)
	verify := c.Flags().Bool("verify", false, "read the file and tell whether it is whole and undamaged")
	overwrite := c.Flags().Bool("overwrite", false, "replace a file that is there")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, stop := interruptible(c.Context())
		defer stop()
		m := newMeter(c.OutOrStdout(), a.asJSON)
		defer m.end()
		if *verify {
			s, err := verifyFile(ctx, args[0], m)
			if err != nil {
				return err
			}
			return s.print(c.OutOrStdout(), a.asJSON, "Whole and undamaged:")
		}
		if _, err := os.Lstat(args[0]); err == nil && !*overwrite {
			return fmt.Errorf("%s is there already: --overwrite replaces it", args[0])
		}
		s, err := writeBackup(ctx, a, args[0], m)
		if err != nil {
			return fmt.Errorf("back up: %w", err)
		}
		m.end()
		return s.print(c.OutOrStdout(), a.asJSON, "Written:")
	}
	return c
}

func restoreCommand() *cobra.Command {
	a := new(admin)
	c := &cobra.Command{Use: "restore FILE", Short: "Fill an empty cluster from a backup.", Args: cobra.ExactArgs(1),
		Long: "Read the whole file and find damage before anything is done, then bring its vhosts, users, permissions, exchanges, queues,\n" +
			"bindings and messages into a cluster that has none. Keep clients away until it is done: queues get their names when all\n" +
			"messages are there. Messages that were out with consumers are ready and marked as redelivered; those that expire do so when\n" +
			"they would have. Users get the passwords that they had in the backup; others stay, but guest goes when the backup has none.\n" +
			"A restore that fails says whether it can be tried again, or whether new data directories are needed first.",
		Example: "  warren restore warren-2026-11-25.backup\n  warren restore --server warren1:15672 --tls-ca ca.pem --user admin --password secret nightly.backup"}
	a.register(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx, stop := interruptible(c.Context())
		defer stop()
		m := newMeter(c.OutOrStdout(), a.asJSON)
		defer m.end()
		if _, err := verifyFile(ctx, args[0], m); err != nil {
			return err
		}
		done, err := sendBackup(ctx, a, args[0], m)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		return done.print(c.OutOrStdout(), a.asJSON)
	}
	return c
}

// writeBackup writes a backup under another name, and gives it its own when it is on disk.
func writeBackup(ctx context.Context, a *admin, name string, m *meter) (s summary, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // for its owner alone
	if err != nil {
		return s, err
	}
	defer func() {
		_ = f.Close() // done already, or it does not matter any more
		if err != nil {
			_ = os.Remove(f.Name()) // the error is the one to tell
		}
	}()
	w := backup.NewWriter(f)
	end, err := fetchParts(ctx, a, w, f, m)
	if err != nil {
		return s, err
	}
	state, err := w.Flush()
	if err != nil {
		return s, err
	}
	if err := f.Sync(); err != nil {
		return s, err
	}
	if err := f.Close(); err != nil {
		return s, err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return s, err
	}
	m.show(1, 1, "all is on disk")
	return summarize(name, state.Written, state.Begin(), end), syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fetchParts gets the catalog, and then as many shards as it tells of.
func fetchParts(ctx context.Context, a *admin, w *backup.Writer, f *os.File, m *meter) (backup.End, error) {
	shards := 0
	for part := -1; part < shards; part++ {
		path := "/api/warren/backup/catalog"
		if part >= 0 {
			path = fmt.Sprintf("/api/warren/backup/shards/%d", part)
		}
		before, err := w.Flush()
		if err != nil {
			return backup.End{}, err
		}
		show := func(now backup.Counts) {
			total := before.Total()
			m.show(int64(part+1), int64(shards+1), fmt.Sprintf("shard %d of %d, %d messages, %s", part+1, shards, total.Messages+now.Messages, inBytes(total.Octets+now.Octets)))
		}
		if part < 0 {
			show = nil
		}
		if err := fetchPart(ctx, a, w, f, path, before, show); err != nil {
			return backup.End{}, err
		}
		if part < 0 {
			now, err := w.Flush()
			if err != nil {
				return backup.End{}, err
			}
			if now.Begin() == nil {
				return backup.End{}, fmt.Errorf("%s sends something that is no catalog", a.server)
			}
			shards = int(now.Begin().Shards)
		}
	}
	return w.Close()
}

// fetchPart gets one part, again when it breaks off.
func fetchPart(ctx context.Context, a *admin, w *backup.Writer, f *os.File, path string, before backup.State, show func(backup.Counts)) error {
	pause := partPause
	for try := 1; ; try++ {
		final, err := tryPart(ctx, a, w, path, show)
		if err == nil || final || try == partTries || ctx.Err() != nil {
			return err
		}
		if err := f.Truncate(before.Written); err != nil {
			return err
		}
		if _, err := f.Seek(before.Written, io.SeekStart); err != nil {
			return err
		}
		w.Return(before)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause *= 2
	}
}

// tryPart gets one part once; a final error would come again.
func tryPart(ctx context.Context, a *admin, w *backup.Writer, path string, show func(backup.Counts)) (final bool, err error) {
	ctx, patient, cancel := withPatience(ctx)
	defer cancel()
	response, err := a.send(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err != nil {
			return false, err
		}
		return response.StatusCode != http.StatusServiceUnavailable, a.refusal(response, data)
	}
	err = w.Append(patient(response.Body), show)
	_, failed := w.Flush() // what cannot be written now cannot be later
	return failed != nil, err
}

// withPatience makes a context that ends when a reader that is made with it brings nothing for long.
func withPatience(ctx context.Context) (context.Context, func(io.Reader) io.Reader, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	return ctx, func(r io.Reader) io.Reader { return patientReader{r, stalled} }, func() { stalled.Stop(); cancel(nil) }
}

var errStalled = fmt.Errorf("nothing has come for %v", stallTimeout)

type patientReader struct {
	r       io.Reader
	stalled *time.Timer
}

func (p patientReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.stalled.Reset(stallTimeout)
	return n, err
}

// verifyFile reads a whole file.
func verifyFile(ctx context.Context, name string, m *meter) (s summary, err error) {
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	begin, end, err := backup.Verify(bufio.NewReaderSize(&meteredReader{ctx: ctx, r: f, m: m, all: info.Size(), text: "checking"}, 1<<20))
	m.end()
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return summarize(name, info.Size(), &begin, end), nil
}

// restored is what a node tells of a restore.
type restored struct {
	Queues, Messages, Expired, Out, Deleted, Later uint64
	all                                            json.RawMessage
}

func (r *restored) print(out io.Writer, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintln(out, string(r.all))
		return err
	}
	_, err := fmt.Fprintf(out, "Restored: %d messages in %d queues.\n", r.Messages, r.Queues)
	note := func(n uint64, text string) {
		if n > 0 && err == nil {
			_, err = fmt.Fprintf(out, "%d %s\n", n, text)
		}
	}
	note(r.Out, "of the messages were out with consumers: they are ready, and redelivered.")
	note(r.Expired, "of the messages had expired since.")
	note(r.Deleted, "queues were deleted while the backup was taken.")
	note(r.Later, "queues were declared while the backup was taken: they are not restored.")
	return err
}

// sendBackup sends a file to a node, which says when all of it is in the cluster.
func sendBackup(ctx context.Context, a *admin, name string, m *meter) (*restored, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	body := &meteredReader{ctx: ctx, r: f, m: m, all: info.Size(), text: "restoring"}
	response, err := a.send(ctx, http.MethodPost, "/api/warren/restore", body, func(r *http.Request) {
		r.ContentLength = info.Size()
		r.Header.Set("Expect", "100-continue")
	})
	m.end()
	if err != nil {
		return nil, fmt.Errorf("%w: unless queues have come, nothing was restored, and it can be tried again; if they have, begin with empty data directories", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, a.refusal(response, data)
	}
	done := &restored{all: data}
	if err := json.Unmarshal(data, done); err != nil {
		return nil, fmt.Errorf("the answer of %s makes no sense: %w", a.server, err)
	}
	return done, nil
}

// meter shows how far something is: with a bar on a terminal, else with a line now and then; nothing where JSON is wanted.
type meter struct {
	out     io.Writer
	bar     bool
	off     bool
	last    time.Time
	pending bool // there is a bar without the end of its line
}

const (
	barPeriod  = 100 * time.Millisecond
	linePeriod = 5 * time.Second
)

func newMeter(out io.Writer, asJSON bool) *meter {
	return &meter{out: out, bar: isTerminal(out), off: asJSON}
}

func (m *meter) show(done, all int64, text string) {
	period := linePeriod
	if m.bar {
		period = barPeriod
	}
	if m.off || time.Since(m.last) < period && done < all {
		return
	}
	m.last = time.Now()
	if m.bar {
		fmt.Fprintf(m.out, "\r\x1b[K%s %s", drawBar(int(done), int(all)), text)
		m.pending = true
		return
	}
	fmt.Fprintln(m.out, text)
}

// end ends the line of a bar.
func (m *meter) end() {
	if m.pending {
		fmt.Fprintln(m.out)
	}
	m.pending = false
}

// meteredReader shows how much of a file has been read.
type meteredReader struct {
	ctx       context.Context
	r         io.Reader
	m         *meter
	done, all int64
	text      string
}

func (r *meteredReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(b)
	if n > 0 {
		r.done += int64(n)
		r.m.show(r.done, r.all, fmt.Sprintf("%s: %s of %s", r.text, inBytes(uint64(r.done)), inBytes(uint64(r.all))))
	}
	return n, err
}
