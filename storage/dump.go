package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/storage/vfs"
)

// dumpLine is a line of a dump.
type dumpLine struct {
	File    string  `json:"file"`
	What    string  `json:"what"`
	Group   *uint32 `json:"group,omitempty"`
	Detail  string  `json:"detail"`
	Damaged bool    `json:"damaged,omitempty"`
}

// dumper writes lines and remembers whether anything is damaged.
type dumper struct {
	fs      vfs.FS
	out     io.Writer
	asJSON  bool
	storeID uint64
	err     error
	damage  int
}

func (d *dumper) line(file, what string, group *uint32, damaged bool, format string, args ...any) {
	l := dumpLine{file, what, group, fmt.Sprintf(format, args...), damaged}
	if damaged {
		d.damage++
	}
	if d.asJSON {
		data, err := json.Marshal(l)
		d.write(append(data, '\n'), err)
		return
	}
	mark := ""
	if damaged {
		mark = "  DAMAGED"
	}
	of := ""
	if group != nil {
		of = fmt.Sprintf(" group %d", *group)
	}
	d.write([]byte(fmt.Sprintf("%-24s %-10s%s  %s%s\n", file, what, of, l.Detail, mark)), nil)
}

func (d *dumper) write(data []byte, err error) {
	if d.err == nil && err == nil {
		_, err = d.out.Write(data)
	}
	d.err = errors.Join(d.err, err)
}

// Dump prints what a data directory holds, as text or as a JSON object a line, and checks every checksum. The error says
// that something is damaged. Nothing is changed; the store must not be open.
func Dump(fs vfs.FS, dir string, out io.Writer, asJSON bool) error {
	lock, err := fs.Lock(path.Join(dir, "LOCK"))
	if err != nil {
		return fmt.Errorf("dump %s: %w", dir, err)
	}
	defer lock.Close()
	d := &dumper{fs: fs, out: out, asJSON: asJSON}
	if err := d.store(dir); err != nil {
		return fmt.Errorf("dump %s: %w", dir, err)
	}
	if d.err != nil {
		return d.err
	}
	if d.damage > 0 {
		return fmt.Errorf("%w: %d places", ErrCorrupt, d.damage)
	}
	return nil
}

func (d *dumper) store(dir string) error {
	data, err := readFile(d.fs, path.Join(dir, "store"), 64)
	if err != nil {
		return err
	}
	if d.storeID, err = parseNumberFile(data, storeMagic); err != nil {
		d.line("store", "store", nil, true, "%s", err)
	} else {
		d.line("store", "store", nil, false, "id %016x", d.storeID)
	}
	names, err := d.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := d.wal(dir, names); err != nil {
		return err
	}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "group-")
		if id, err := strconv.ParseUint(number, 10, 32); ok && err == nil {
			if err := d.group(path.Join(dir, name), name, uint32(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// wal prints the log by the same code that recovers it, on groups that stand on nothing.
func (d *dumper) wal(dir string, groups []string) error {
	s := &Store{fs: d.fs, o: Options{Dir: dir}, log: slog.New(slog.DiscardHandler), id: d.storeID, groups: map[uint32]*Group{}}
	s.wal = &wal{s: s, dir: path.Join(dir, "wal")}
	data, err := readFile(d.fs, s.currentName(), 64)
	if err != nil {
		return err
	}
	newest, err := parseNumberFile(data, currentMagic)
	if err != nil {
		d.line("wal/CURRENT", "current", nil, true, "%s", err)
	} else {
		d.line("wal/CURRENT", "current", nil, false, "file %016x", newest)
	}
	names, err := d.fs.ReadDir(s.wal.dir)
	if err != nil {
		return err
	}
	oldest := true
	numbers := map[uint64]bool{}
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".wal")
		number, err := strconv.ParseUint(text, 16, 64)
		if !ok || err != nil {
			continue
		}
		if err := d.walFile(s, number, oldest); err != nil {
			return err
		}
		oldest = false
		numbers[number] = true
	}
	if !slices.Contains(names, fmt.Sprintf("%016x.wal", newest)) {
		d.line(fmt.Sprintf("wal/%016x.wal", newest), "log", nil, true, "missing")
	}
	return d.verdicts(s, groups, numbers, newest)
}

// verdicts tells the groups that a recovery would say are damaged, by the code of the recovery.
func (d *dumper) verdicts(s *Store, names []string, numbers map[uint64]bool, newest uint64) error {
	s.groups = map[uint32]*Group{}
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "group-")
		id, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil {
			continue
		}
		g := newGroup(s, uint32(id))
		s.groups[g.id] = g
		f, err := d.fs.Open(g.checkpointName())
		if errors.Is(err, vfs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if g.checkpoint, err = readCheckpoint(f, d.storeID, g.id); err == nil {
			g.floor = g.checkpoint.floor
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	r := &recovery{s: s, suspects: map[uint32]string{}, needs: map[uint32]uint64{}, missing: map[uint32]string{}}
	_, err := r.files(numbers, newest)
	r.judge()
	for _, f := range s.wal.files {
		err = errors.Join(err, f.f.Close())
	}
	for _, g := range s.sortedGroups() {
		if g.Damaged() != nil {
			d.line("wal", "group", &g.id, true, "%s", g.Damaged())
		}
	}
	return err
}

// walFile prints the records of a log file, by runs of one group.
func (d *dumper) walFile(s *Store, number uint64, oldest bool) error {
	short := fmt.Sprintf("wal/%016x.wal", number)
	f, err := d.fs.Open(s.wal.walName(number))
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	wf := &walFile{number: number, f: f, seed: seedOf(s.id, number), size: size}
	// Groups that retired entries are not known here, so the watermark of the oldest file is taken as it is.
	r := &recovery{s: s, suspects: map[uint32]string{}, needs: map[uint32]uint64{}, missing: map[uint32]string{}}
	if err = r.header(wf, true); err != nil {
		d.line(short, "header", nil, true, "%s", err)
		wf.begin = int64(padded(walHeaderSize))
	}
	if wf.size > size {
		d.line(short, "file", nil, true, "%d octets of %d", size, wf.size)
	}
	for at := wf.begin; ; {
		h, ok, err := r.peek(wf, at, size)
		if err != nil {
			return err
		}
		if ok && h.length == 0 {
			d.line(short, "mark", nil, false, "at %d: everything before is durable", at)
			return nil
		}
		if ok {
			start, end := at+int64(h.size()), at+int64(h.size())+int64(h.length)
			if end <= size {
				b := make([]byte, h.length)
				if err := readFull(f, b, start); err != nil {
					return err
				}
				if all, whole := splitRecords(b, wf.seed); whole {
					d.records(short, at, all)
					at = end
					continue
				}
			}
		}
		next, found, err := r.find(wf, at+align, size)
		if err != nil {
			return err
		}
		if !found {
			if ok {
				d.line(short, "torn", nil, false, "at %d: a batch that was never whole", at)
			}
			d.line(short, "end", nil, false, "at %d of %d", at, size)
			return nil
		}
		d.line(short, "hole", nil, true, "from %d to %d cannot be read, and a batch follows", at, next)
		at = next
	}
}

var kindNames = map[uint8]string{kindEntry: "entry", kindTruncate: "truncate", kindReset: "reset"}

func (d *dumper) records(file string, at int64, all []record) {
	for i := 0; i < len(all); {
		first := &all[i]
		octets := 0
		for i < len(all) && all[i].group == first.group && all[i].kind == first.kind {
			octets += len(all[i].data) + len(all[i].exts)
			i++
		}
		last := &all[i-1]
		d.line(file, kindNames[first.kind], &first.group, false, "batch at %d: index %d to %d, term %d, %d octets", at, first.index, last.index, last.term, octets)
	}
}

func (d *dumper) group(dir, name string, id uint32) error {
	g := &Group{s: &Store{fs: d.fs, id: d.storeID}, id: id, dir: dir}
	f, err := d.fs.Open(g.checkpointName())
	if errors.Is(err, vfs.ErrNotExist) {
		d.line(name, "group", &id, false, "no checkpoint")
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	file := name + "/checkpoint"
	c, err := readCheckpoint(f, d.storeID, id)
	if err != nil {
		d.line(file, "checkpoint", &id, true, "%s", err)
		return nil
	}
	n, err := io.Copy(io.Discard, &blockReader{f: f, at: c.bodyAt})
	d.line(file, "checkpoint", &id, err != nil, "index %d, term %d, floor %d, %d octets of state, %d segments%s", c.Index, c.Term, c.floor, n, len(c.segments), because(err))
	for _, number := range c.segments {
		d.segment(g, name, number)
	}
	return nil
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// segment checks every record of a segment.
func (d *dumper) segment(g *Group, dir string, number uint64) {
	file := fmt.Sprintf("%s/%016x.seg", dir, number)
	seg, err := openSegment(d.fs, g.segmentName(number), g.id, d.storeID, number)
	if err != nil {
		d.line(file, "segment", &g.id, true, "%s", err)
		return
	}
	defer seg.f.Close()
	octets := int64(0)
	for _, it := range seg.items {
		p, err := seg.read(it, g.id)
		if err != nil {
			d.line(file, "record", &g.id, true, "entry %d at %d: %s", it.index, int64(it.at)*align, err)
			continue
		}
		octets += int64(len(p.octets) + len(p.entry.Data))
	}
	in := ""
	if seg.log != nil {
		in = ", in " + path.Base(seg.log.name)
	}
	d.line(file, "segment", &g.id, false, "%d records, %d octets of bodies%s", len(seg.items), octets, in)
}
