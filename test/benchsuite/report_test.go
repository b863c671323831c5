package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/bench"
)

func TestBetweenKeepsTheRestOfTheDocument(t *testing.T) {
	for _, c := range []struct{ document, want string }{
		{"", "\n\n" + beginMark + "\n\nnew\n" + endMark + "\n"},
		{"# Title\n", "# Title\n\n" + beginMark + "\n\nnew\n" + endMark + "\n"},
		{"before\n" + beginMark + "\nold\n" + endMark + "\nafter\n", "before\n" + beginMark + "\n\nnew\n" + endMark + "\nafter\n"},
	} {
		got := between(c.document, "new")
		if got != c.want {
			t.Errorf("%q became %q, want %q", c.document, got, c.want)
		}
		if again := between(got, "new"); again != got {
			t.Errorf("written twice: %q", again)
		}
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.1234: "0.12", 1: "1.00", 12.34: "12.3", 123.4: "123", 1234: "1,230", 1234567: "1,230,000", -1234: "-1,230", 99950: "100,000"} {
		if got := figure(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestWorksHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range works(&options{scale: 1}) {
		if seen[w.name] || w.name == "" || w.title == "" || w.group == "" || w.do == nil {
			t.Errorf("work %q is there twice or not whole", w.name)
		}
		seen[w.name] = true
		if !w.chosen("") || !w.chosen("nothing,"+w.name) || w.chosen("nothing") {
			t.Errorf("work %q is not chosen as it should", w.name)
		}
	}
}

// suiteOf is a run with three repeats of one work, one of which failed.
func suiteOf() *Suite {
	sample := func(broker string, repeat int, rate float64) Sample {
		return Sample{Broker: broker, Work: "publish-1kib-1q", Repeat: repeat, Load: 2, Values: values{published: rate, cpu: 10}}
	}
	return &Suite{Begin: time.Unix(0, 0), Duration: time.Second, Repeats: 3, Scale: 0.5,
		Limit:   map[string][]bench.LimitResult{limitWindow: {{Size: 1024, Messages: 100000, Bytes: 1e8}}},
		Brokers: []BrokerInfo{{"warren", "Warren x"}, {"rabbitmq", "RabbitMQ y"}},
		Skipped: []Skip{{"nats", "no such\nthing"}},
		Samples: []Sample{sample("warren", 0, 10000), sample("warren", 1, 50000), sample("warren", 2, 40000), sample("rabbitmq", 0, 10000),
			{Broker: "rabbitmq", Work: "publish-1kib-1q", Repeat: 1, Failed: errors.New("broken").Error()}}}
}

func TestReportHasMediansRatiosAndReasons(t *testing.T) {
	dir := t.TempDir()
	o := &options{report: filepath.Join(dir, "docs", "performance.md"), pictures: filepath.Join(dir, "docs", "pictures"), raw: filepath.Join(dir, "docs", "raw.json")}
	if err := writeRaw(o.raw, suiteOf()); err != nil {
		t.Fatal(err)
	}
	s, err := readRaw(o.raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeReport(o, s); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.report)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| 1 KiB, 1 queue, publish only | Warren | 40,000 |", "× 4.0 | 40 % |", "JetStream was left out: no such thing",
		"RabbitMQ, publish-1kib-1q: broken", "scaled by 0.5", "Warren: Warren x (load average 2.0 to 2.0)", "](pictures/publish.svg)",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if _, err := os.Stat(filepath.Join(o.pictures, "publish.svg")); err != nil {
		t.Error(err)
	}
}

func TestPlotIsXML(t *testing.T) {
	p := plot{title: "a < b", series: []string{"one", "two & more"}}
	p.add("x", []float64{1, 100000})
	p.add("y", []float64{math.NaN(), 0})
	decoder := xml.NewDecoder(strings.NewReader(p.svg()))
	for {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	empty := plot{series: []string{"one"}}
	empty.add("nothing", []float64{math.NaN()})
	if strings.Contains(empty.svg(), "NaN") || strings.Contains(empty.svg(), "Inf") {
		t.Error("a plot without bars has no scale")
	}
}

func TestWithChildrenFindsThisProcess(t *testing.T) {
	found := false
	for _, pid := range withChildren(os.Getppid()) {
		found = found || pid == os.Getpid()
	}
	if !found {
		t.Error("a child of its parent is not found")
	}
}
