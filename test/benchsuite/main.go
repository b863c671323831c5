// Command benchsuite measures Warren, RabbitMQ and NATS JetStream side by side on one machine: three nodes of each, started
// and stopped by the suite on ports and data directories of its own, and driven by the same clients. It writes a report with
// tables and plots into docs/performance.md, between two marks, and all that was measured as JSON. A broker that cannot be
// had is left out, and the report says why.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	warren   string // the binary
	brokers  []string
	works    string // names begin with one of these, with commas between; empty: all
	dir      string // data of the brokers: on the disk to be measured
	repeats  int
	duration time.Duration
	warmup   time.Duration
	scale    float64 // of the numbers of messages, queues and connections that are made
	report   string
	pictures string
	raw      string
}

func main() {
	var o options
	var brokers string
	list := flag.Bool("list", false, "list what is measured")
	again := flag.Bool("report-only", false, "write the report from -raw again")
	flag.StringVar(&o.warren, "warren", "bin/warren", "Warren's binary")
	flag.StringVar(&brokers, "brokers", strings.Join(brokerNames(), ","), "what is measured")
	flag.StringVar(&o.works, "works", "", "only works whose names begin so, with commas between (see -list)")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "folder on the disk to be measured; the brokers' data is removed at the end")
	flag.IntVar(&o.repeats, "repeats", 3, "runs of each work; the report has their medians")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "time of each measurement")
	flag.DurationVar(&o.warmup, "warmup", 2*time.Second, "time before each measurement")
	flag.Float64Var(&o.scale, "scale", 1, "factor on the numbers of messages, queues and connections of backlogs and memory")
	flag.StringVar(&o.report, "report", "docs/performance.md", "document whose part between the marks is written anew; empty: none")
	flag.StringVar(&o.pictures, "pictures", "docs/performance", "folder of the plots")
	flag.StringVar(&o.raw, "raw", "docs/performance/raw.json", "all that was measured")
	flag.Parse()
	o.brokers = strings.Split(brokers, ",")
	if *list {
		for _, w := range works(&o) {
			fmt.Printf("%-28s %s\n", w.name, w.title)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, &o, *again)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchsuite:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options, again bool) error {
	if again {
		s, err := readRaw(o.raw)
		if err != nil {
			return err
		}
		return writeReport(o, s)
	}
	for _, name := range o.brokers {
		if !slices.Contains(brokerNames(), name) {
			return fmt.Errorf("no broker is called %q: %s", name, strings.Join(brokerNames(), ", "))
		}
	}
	if o.repeats < 1 || o.duration <= 0 || o.scale <= 0 {
		return fmt.Errorf("repeats, duration and scale must be more than zero")
	}
	dir, err := os.MkdirTemp(o.dir, "warren-benchsuite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &session{o: o, dir: dir, Suite: Suite{Machine: thisMachine(), Begin: time.Now(), Duration: o.duration, Repeats: o.repeats, Scale: o.scale}}
	measured := s.measure(ctx)
	// What was measured before a failure is worth keeping.
	if err := writeRaw(o.raw, &s.Suite); err != nil {
		return err
	}
	return errors.Join(measured, writeReport(o, &s.Suite))
}

// session is the suite under way.
type session struct {
	Suite
	o   *options
	dir string
}

// measure goes through all brokers again and again, so that what is compared was measured within minutes.
func (s *session) measure(ctx context.Context) error {
	binary, err := filepath.Abs(s.o.warren)
	if err != nil {
		return err
	}
	s.Limit, err = measureLimit(ctx, binary, s.dir, s.o)
	if err != nil {
		return err
	}
	built := map[string]broker{}
	for _, name := range s.o.brokers {
		b, err := newBroker(ctx, name, binary, filepath.Join(s.dir, name))
		if err != nil {
			s.skip(name, err)
			continue
		}
		built[name] = b
		s.Brokers = append(s.Brokers, BrokerInfo{Name: name, Version: b.version()})
	}
	for repeat := range s.o.repeats {
		for _, name := range s.o.brokers {
			if b := built[name]; b != nil {
				if err := s.measureBroker(ctx, b, repeat); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func (s *session) skip(name string, why error) {
	fmt.Printf("%s is left out: %v\n", name, why)
	s.Skipped = append(s.Skipped, Skip{Broker: name, Why: why.Error()})
}

// measureBroker starts the broker, does all works, and stops it. A work that fails is told in the report; the next begins with
// new nodes.
func (s *session) measureBroker(ctx context.Context, b broker, repeat int) (err error) {
	running := false
	stop := func() {
		if running {
			err = firstOf(err, b.stop())
			err = firstOf(err, os.RemoveAll(b.home()))
			running = false
		}
	}
	defer func() { stop() }()
	for _, w := range works(s.o) {
		if !w.chosen(s.o.works) || w.alone && (b.name() != "warren" || repeat > 0) {
			continue
		}
		if w.fresh {
			stop()
		}
		if !running {
			if err := b.start(ctx); err != nil {
				running = true // as far as it came
				return fmt.Errorf("start: %w", err)
			}
			running = true
		}
		load := loadAverage()
		values, failure := w.do(ctx, s.o, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		sample := Sample{Broker: b.name(), Work: w.name, Repeat: repeat, Load: load, Values: values}
		if failure != nil {
			sample.Failed = failure.Error()
		}
		s.Samples = append(s.Samples, sample)
		fmt.Println(sample.line())
		if failure != nil && !errors.Is(failure, errNotThere) || w.spoils {
			stop()
		}
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
